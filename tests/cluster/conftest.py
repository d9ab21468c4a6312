"""A namespace of its own for every test, and a table of what was measured at the end.

Times are printed beside their goals and never asserted: these machines are noisy. What must happen is asserted.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tests.cluster import audit, jobs
from tests.cluster.kube import Kube, kubectl
from tests.cluster.load import LOADS_NODE, Load
from tests.cluster.training import running, wait_until_it_trains

Measure = Callable[[str, float, str], None]
MEASURED: list[tuple[str, float, str]] = []
_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/cluster/" in item.nodeid:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def installed() -> None:
    """Muster runs on the cluster, installed through its chart."""
    answer = kubectl("rollout", "status", "-n", "muster-system", "deployment", "--timeout=60s", check=False)
    assert answer.returncode == 0, f"Muster does not run on the cluster: `make cluster install` first\n{answer.stderr}"


@contextlib.contextmanager
def namespace() -> Iterator[Kube]:
    """A namespace of its own, until the block ends."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    kubectl("create", "namespace", name)
    yield Kube.connect(name)
    # Jobs before pods, or these are replaced; pods before the namespace, or its end waits half of their grace period.
    kubectl("delete", "trainingjobs,modeldeployments", "--all", "-n", name, "--timeout=60s", check=False)
    kubectl("delete", "pods", "--all", "-n", name, "--grace-period=1", "--timeout=60s", check=False)
    kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def kube(installed: None) -> Iterator[Kube]:
    with namespace() as one:
        yield one


@pytest.fixture
def training(kube: Kube) -> Iterator[Kube]:
    """A job of three workers that trains and has a checkpoint.

    Whatever the test does to it: every sample has been used once in every epoch when it ends.
    """
    audit.provide(kube)
    kube.apply(jobs.endless(recipe=audit.RECIPE, source=audit.SOURCE))
    wait_until_it_trains(kube, "digits-0-1")
    yield kube
    assert audit.complete_epochs(kube, running(kube)[0]) > 0


@pytest.fixture(scope="session")
def trained(installed: None) -> Iterator[Kube]:
    """A namespace in which a job has left its model."""
    with namespace() as one:
        one.apply(jobs.example("digits.yaml").replace("epochs: 20", "epochs: 2"))
        one.wait_for_phase("digits", "Succeeded", 120)
        yield one


@pytest.fixture
def load(under_load: Load) -> Iterator[Load]:
    """Of the test's module, told only of what fails from now on; what is known of it then is printed."""
    under_load.begin_anew()
    yield under_load
    if failures := under_load.failures():
        print(*failures, under_load.witness.tells(LOADS_NODE), sep="\n")


@pytest.fixture
def measure() -> Measure:
    """Note what was measured, and the goal in words; both are printed at the end."""

    def note(what: str, value: float, goal: str = "") -> None:
        MEASURED.append((what, value, goal))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not MEASURED:
        return
    terminalreporter.section("measured on the cluster")
    width = max(len(what) for what, _, _ in MEASURED)
    for what, value, goal in MEASURED:
        terminalreporter.write_line(f"{what:<{width}}  {value:8.2f}  {goal}")
