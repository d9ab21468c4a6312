"""The arithmetic of the throughput benchmark."""

from __future__ import annotations

import pytest

from tests.bench.throughput.figures import (
    MUSTER,
    SAME_RANKS,
    SCRIPT,
    SIDES,
    Ratio,
    head,
    order,
    row,
    samples_per_second,
)


def test_samples_are_those_of_all_ranks_over_the_timed_steps():
    assert samples_per_second({"steps": 40, "seconds": 8.0}, batch=64) == 320.0


def test_a_ratio_compares_what_ran_in_the_same_round():
    """A machine that gets twice as slow for a round changes no ratio."""
    ratio = Ratio.of([99.0, 50.0, 97.0], [100.0, 50.0, 100.0])
    assert (ratio.median, ratio.least, ratio.most) == (0.99, 0.97, 1.0)
    assert str(ratio) == "0.990 (0.970 to 1.000)"


def test_sides_of_unequal_length_are_an_error():
    with pytest.raises(ValueError):
        Ratio.of([1.0], [1.0, 2.0])


def test_every_other_round_goes_backwards():
    assert order(0) == SIDES
    assert order(1) == SIDES[::-1]


@pytest.mark.parametrize(("muster", "verdict"), [(98.0, "met"), (97.9, "**missed**")])
def test_the_goal_is_judged_beside_the_same_ranks_under_torchrun(muster, verdict):
    cells = row("digits", {MUSTER: [muster], SAME_RANKS: [100.0], SCRIPT: [200.0]})
    assert len(cells) == len(head())
    assert cells[:3] == ["digits", "98", "100"]
    assert cells[4:6] == [verdict, "200"]
