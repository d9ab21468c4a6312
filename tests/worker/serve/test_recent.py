"""What is told of the last half minute is what happened in it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from muster_worker.serve.recent import WINDOW, Recent, Summary


def test_nothing_happened():
    assert Recent(100.0).summary(100.5) == Summary(0.0, 0.0, None, None)


def test_the_second_under_way_is_left_out():
    recent = Recent(100.0)
    recent.note(100.2, 0.01, failed=False)
    assert recent.summary(100.9).requests_per_second == 0
    assert recent.summary(101.1).requests_per_second == 1


def test_a_young_server_is_not_measured_by_the_time_before_it_was():
    recent = Recent(100.0)
    for number in range(50):
        recent.note(100 + number / 10, 0.01, failed=number % 5 == 0)
    found = recent.summary(105.0)
    assert found.requests_per_second == 10
    assert found.error_rate == 0.2


def test_what_is_long_past_is_forgotten():
    recent = Recent(0.0)
    recent.note(1.0, 5.0, failed=True)
    recent.note(20.0, 0.001, failed=False)
    assert recent.summary(1.0 + WINDOW).error_rate == 0.5
    assert recent.summary(2.0 + WINDOW).error_rate == 0.0
    assert recent.summary(21.0 + WINDOW) == Summary(0.0, 0.0, None, None)


@given(st.lists(st.floats(1e-4, 30.0), min_size=1, max_size=300))
def test_percentiles_are_exact_to_a_tenth(latencies):
    recent = Recent(0.0)
    for seconds in latencies:
        recent.note(0.5, seconds, failed=False)
    found, ordered = recent.summary(1.0), sorted(latencies)
    for part, value in ((0.5, found.latency_p50), (0.99, found.latency_p99)):
        exact = ordered[math.ceil(len(ordered) * part) - 1]
        assert exact * 0.999 <= value <= exact * 1.101
