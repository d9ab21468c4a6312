"""The plateau schedule is torch's, and survives an interruption at any evaluation."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from muster_worker.train.environment import LearningRate
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.schedule import Schedule
from tests.worker.train.recipes import Line, LineConfig

RECIPE = Line(LineConfig())


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


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
    torchs = ReduceLROnPlateau(reference, "max" if metric == "validationAccuracy" else "min", factor, patience)
    mine = optimizer()
    schedule = Schedule(settings, mine, RECIPE)
    for number, value in enumerate(values):
        if number == interruption:
            resumed = optimizer()
            resumed.load_state_dict(mine.state_dict())
            following = Schedule(settings, resumed, RECIPE)
            following.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
            schedule, mine = following, resumed
        schedule.step({metric: value})
        torchs.step(value)
        assert schedule.learning_rate == reference.param_groups[0]["lr"]


def test_constant_is_constant():
    schedule = Schedule(LearningRate(), optimizer(), RECIPE)
    schedule.check([])
    for _ in range(20):
        schedule.step({})
    assert schedule.learning_rate == 0.1
    assert schedule.state_dict() == {}


def test_an_unknown_metric_is_named():
    schedule = Schedule(LearningRate(schedule="plateau", metric="loos"), optimizer(), RECIPE)
    with pytest.raises(
        ConfigurationError, match=r"learningRate.metric: found loos, wanted one of loss, validationLoss"
    ):
        schedule.check(["validationLoss", "loss"])
