"""The schedules are torch's, and survive an interruption at any evaluation."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from muster_worker.train.environment import LearningRate
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.schedule import Schedule
from tests.worker.train.recipes import Line, LineConfig

RECIPE = Line(LineConfig())


STEPS = 40


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def driving(settings):
    schedule = Schedule(settings, RECIPE, STEPS)
    schedule.drive(optimizer())
    return schedule


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=30),
    st.integers(0, 30),
    st.sampled_from(["validationLoss", "validationAccuracy"]),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.integers(0, 3),
)
def test_it_does_what_torch_does_also_when_interrupted(values, interruption, metric, factor, patience):
    settings = LearningRate(0.1, "plateau", metric, factor, patience)
    reference = optimizer()
    mode = "max" if metric == "validationAccuracy" else "min"
    torchs = ReduceLROnPlateau(reference, mode, factor, patience, eps=0.0)
    schedule = driving(settings)
    for number, value in enumerate(values):
        if number == interruption:
            following = driving(settings)
            following.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
            schedule = following
        schedule.after_evaluation({metric: value})
        torchs.step(value)
        schedule.before_step(number)
        assert schedule.learning_rate == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "values", "lowered_after"),
    [
        ("validationLoss", [-1.0] * 9, 3),
        ("validationLoss", [-1000.0 + 0.05 * number for number in range(9)], 3),
        ("validationLoss", [-1000.0 - 0.09 * number for number in range(2)] + [-1000.2] * 7, 5),
        ("validationLoss", [-1.0 - number for number in range(9)], None),
        ("validationLoss", [0.5, 0.0, *[-0.5] * 7], 5),
        ("validationLoss", [math.nan] * 9, 2),
        ("validationLoss", [1000.0 - 0.01 * number for number in range(9)], 3),
        ("validationAccuracy", [-1.0] * 9, 3),
        ("validationAccuracy", [-9.0 + number for number in range(9)], None),
    ],
)
def test_a_metric_of_either_sign_stalls_when_it_gets_no_better(metric, values, lowered_after):
    settings = LearningRate(0.1, "plateau", metric, 0.5, 2)
    schedule = driving(settings)
    rates = []
    for number, value in enumerate(values):
        schedule.after_evaluation({metric: value})
        schedule.before_step(number)
        rates.append(schedule.learning_rate)
    found = next((number for number, rate in enumerate(rates) if rate < 0.1), None)
    assert found == lowered_after


def test_a_checkpoint_of_before_is_gone_on_from_by_the_same_rule():
    """Then torch's relative threshold was kept, by which what is below zero never stalls."""
    settings = LearningRate(0.1, "plateau", "validationLoss", 0.5, 2)
    before = ReduceLROnPlateau(optimizer(), "min", 0.5, 2, eps=0.0)
    before.step(-1.0)
    schedule = driving(settings)
    schedule.load_state_dict(json.loads(json.dumps({"plateau": before.state_dict(), "factor": 1.0})))
    for _ in range(3):
        schedule.after_evaluation({"validationLoss": -1.0})
    schedule.before_step(3)
    assert schedule.learning_rate == 0.05


def lowered_after(schedule, metric, values):
    """How many evaluations until the rate falls; None: it does not."""
    before = None
    for number, value in enumerate(values):
        schedule.after_evaluation({metric: value})
        schedule.before_step(number)
        if before is not None and schedule.learning_rate < before:
            return number
        before = schedule.learning_rate
    return None


def test_a_job_that_goes_on_has_the_settings_of_its_own():
    before = driving(LearningRate(0.1, "plateau", "validationLoss", 0.5, 9))
    assert lowered_after(before, "validationLoss", [1.0, 1.0, 1.0]) is None
    state = json.loads(json.dumps(before.state_dict()))
    soon = driving(LearningRate(0.1, "plateau", "validationLoss", 0.1, 3))
    soon.load_state_dict(state)
    assert lowered_after(soon, "validationLoss", [1.0, 1.0, 1.0]) == 1, "of two before and two now"
    assert soon.learning_rate == pytest.approx(0.01)


def test_another_metric_is_judged_anew_and_by_its_own_direction():
    before = driving(LearningRate(0.1, "plateau", "validationLoss", 0.5, 0))
    assert lowered_after(before, "validationLoss", [0.01, 0.01, 0.01]) == 1
    schedule = driving(LearningRate(0.1, "plateau", "validationAccuracy", 0.5, 0))
    schedule.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert lowered_after(schedule, "validationAccuracy", [0.1, 0.2, 0.3, 0.3]) == 3
    assert schedule.learning_rate == pytest.approx(0.1 * 0.5 * 0.5)


def test_constant_is_constant():
    schedule = driving(LearningRate())
    schedule.check([])
    for step in range(20):
        schedule.after_evaluation({})
        schedule.before_step(step)
        assert schedule.learning_rate == 0.1
    assert schedule.state_dict() == {}


def test_the_cosine_is_torchs_after_an_even_warm_up_and_stays_above_the_minimum():
    reference = optimizer()
    torchs = CosineAnnealingLR(reference, T_max=STEPS - 10)
    schedule = driving(LearningRate(schedule="cosine", warm_up_steps=10, minimum=0.02))
    found = []
    for step in range(STEPS):
        schedule.before_step(step)
        found.append(schedule.learning_rate)
    assert found[:10] == pytest.approx([max(0.02, 0.01 * step) for step in range(1, 11)])
    wanted = []
    for _ in range(10, STEPS):
        wanted.append(max(0.02, reference.param_groups[0]["lr"]))
        reference.step()
        torchs.step()
    assert found[10:] == pytest.approx(wanted)


def test_each_group_keeps_its_proportion():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.4)]
    several = torch.optim.SGD(groups)
    schedule = Schedule(LearningRate(schedule="cosine"), RECIPE, STEPS)
    schedule.drive(several)
    schedule.before_step(STEPS // 2)
    assert [group["lr"] for group in several.param_groups] == pytest.approx([0.05, 0.2])


def test_an_unknown_metric_is_named():
    schedule = Schedule(LearningRate(schedule="plateau", metric="loos"), RECIPE, STEPS)
    with pytest.raises(
        ConfigurationError, match=r"learningRate.metric: found loos, wanted one of loss, validationLoss"
    ):
        schedule.check(["validationLoss", "loss"])
