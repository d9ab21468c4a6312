"""Who slows the others down is named, once that has lasted, and no more once it is over."""

from __future__ import annotations

import json

import pytest

from muster_worker.train.stragglers import SLOW, WINDOW, Stragglers
from tests.worker.train import ranks


class Training:
    """Steps of ranks, by a clock that the test turns."""

    def __init__(self, stages=1):
        """Ranks are of one stage after the other."""
        self.now = 100.0
        self.stragglers = Stragglers(stage_of=lambda rank: rank % stages, clock=lambda: self.now)

    def go_on(self, seconds, *ranks, every=0.02):
        for _ in range(round(seconds / every)):
            self.now += every
            self.stragglers.look(dict(enumerate(ranks)))
        return self.stragglers.slow()


def test_the_slow_rank_is_named_once_that_has_lasted():
    training = Training()
    assert training.go_on(WINDOW * 0.3, 0.010, 0.011, 0.030) == []
    assert training.go_on(WINDOW, 0.010, 0.011, 0.033) == [{"rank": 2, "slowdown": 3.0}]


def test_it_is_named_no_more_once_it_is_as_fast_as_the_others():
    training = Training()
    assert training.go_on(WINDOW, 0.010, 0.030)
    assert training.go_on(WINDOW, 0.010, 0.011) == []


def test_of_two_the_slower_one_of_several_the_slowest_first():
    assert Training().go_on(WINDOW, 0.030, 0.010) == [{"rank": 0, "slowdown": 3.0}]
    named = Training().go_on(WINDOW, 0.020, 0.010, 0.010, 0.040, 0.010)
    assert [one["rank"] for one in named] == [3, 0]


def test_noise_is_no_slowness():
    assert Training().go_on(WINDOW, 0.010, 0.012, 0.014) == []
    assert Training().go_on(WINDOW, 0.0001, 0.0009) == [], "less than a millisecond a step"
    training = Training()
    for number in range(2000):
        pause = 0.5 if number % 20 == 0 else 0.010
        assert training.go_on(0.02, 0.010, 0.010, pause) == [], "it saves now and then"


def test_a_rank_counts_by_the_steps_of_which_it_had_a_part():
    training = Training()
    for number in range(int(WINDOW * 10)):
        training.now += 0.1
        late = {7: 2.4} if number % 24 == 0 else {}
        training.stragglers.look({5: 0.1, 6: 0.12} | late)
    assert training.stragglers.slow() == [{"rank": 7, "slowdown": 20.0}]
    training.now += WINDOW / 2
    assert training.stragglers.slow() == [], "of two steps, nothing is said"


def test_a_stage_that_has_more_to_do_is_not_slow_but_one_that_was_faster_before_is():
    training = Training(stages=3)
    assert training.go_on(3 * WINDOW, 0.010, 0.040, 0.020) == []
    assert training.go_on(WINDOW, 0.011, 0.044, 0.080) == [{"rank": 2, "slowdown": 3.64}]
    assert training.go_on(WINDOW, 0.030, 0.120, 0.060) == [], "all of them are slower than before"
    assert training.go_on(WINDOW, 0.010, 0.040, 0.020) == []


def test_ranks_of_a_stage_are_held_against_each_other_from_the_beginning():
    assert Training(stages=2).go_on(WINDOW, 0.010, 0.040, 0.010, 0.090) == [{"rank": 3, "slowdown": 2.25}]


def test_a_rank_that_had_nothing_to_do_is_no_measure():
    assert Training().go_on(WINDOW, 0.0, 0.010, 0.030) == [{"rank": 2, "slowdown": 3.0}]


def test_one_rank_waits_for_nobody():
    assert Training().go_on(2 * WINDOW, 0.01) == []


@pytest.mark.long
@pytest.mark.parametrize("servers", [0, 1], ids=["average", "have a server"])
def test_of_two_ranks_that_the_slow_one_is_reported(start_ranks, tmp_path, servers):
    epochs = {"epochs": 40, "batchSize": 6}  # some 9 steps of 0.03 s each
    strategy = {"type": "parameterServer"} if servers else {}
    group = start_ranks(
        *(tmp_path / "storage", servers + 2),
        recipe="tests.worker.train.recipes:Slow",
        config=epochs,
        MUSTER_STRATEGY=json.dumps(strategy),
        MUSTER_PARAMETER_SERVERS=ranks.addresses(servers),
    )
    assert group.wait() == [0] * (servers + 2), group.output()
    told = [line["stragglers"] for line in group.reports() if "stragglers" in line]
    assert told[0] == []
    ((slow,),) = told[-1:]
    assert slow["rank"] == 1
    assert slow["slowdown"] > SLOW


@pytest.mark.long
@pytest.mark.parametrize(
    ("strategy", "how"),
    [("fsdp", "SlowToCompute"), ("tensor", "SlowToCompute"), ("fsdp", "SlowToRead")],
)
def test_of_ranks_that_divide_a_model_the_slow_one_is_reported(start_ranks, tmp_path, strategy, how):
    group = start_ranks(
        *(tmp_path / "storage", 2),
        recipe=f"tests.worker.train.recipes:{how}",
        config={"epochs": 35, "batchSize": 16, "blocks": 2, "samples": 160},  # 10 steps of some 0.02 s each
        MUSTER_STRATEGY=json.dumps({"type": strategy}),
    )
    assert group.wait() == [0, 0], group.output()
    told = [line["stragglers"] for line in group.reports() if "stragglers" in line]
    ((slow,),) = told[-1:]
    assert slow["rank"] == 1
    assert slow["slowdown"] > SLOW


@pytest.mark.long
def test_of_two_pipelines_the_slow_rank_is_reported(start_ranks, tmp_path):
    group = start_ranks(
        *(tmp_path / "storage", 4),
        recipe="tests.worker.train.recipes:SlowToCompute",
        config={"epochs": 25, "batchSize": 16, "blocks": 2, "samples": 160},
        MUSTER_STRATEGY=json.dumps({"type": "pipeline", "mesh": {"pipeline": 2}}),
    )
    assert group.wait() == [0] * 4, group.output()
    ((slow,),) = [line["stragglers"] for line in group.reports() if "stragglers" in line][-1:]
    assert (slow["rank"], slow["slowdown"] > SLOW) == (1, True)
