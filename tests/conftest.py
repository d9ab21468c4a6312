"""For all tests: nothing fails for having been slow on a noisy machine, and properties say how much they tried."""

import re

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("noisy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("noisy")

CASES = pytest.StashKey[dict[str, int]]()


def pytest_configure(config):
    config.stash[CASES] = {}


def pytest_runtest_teardown(item):
    """Note how many cases a property was tried with, which hypothesis says in a sentence of its statistics."""
    said = getattr(item, "hypothesis_statistics", "")
    tried = sum(int(number) for number in re.findall(r"(\d+) passing", said))
    if tried:
        item.config.stash[CASES][item.nodeid] = tried


def pytest_terminal_summary(terminalreporter, config):
    cases = config.stash[CASES]
    if cases:
        terminalreporter.section("properties")
        terminalreporter.write_line(f"{len(cases)} properties held in {sum(cases.values()):,} cases")
