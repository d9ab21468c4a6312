"""A metric over the evaluations: what is better, when training ends early, and which checkpoint is published."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_worker.train.durable import read_json
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.model_directory import load_model
from muster_worker.train.watch import Watch
from tests.worker.train.recipes import Line, LineConfig

RECIPE = Line(LineConfig())
GROWING = "tests.worker.train.recipes:Growing"


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(0, 30), st.booleans())
def test_the_first_of_the_best_counts_also_when_interrupted(values, interruption, rises):
    metric = "validationAccuracy" if rises else "validationLoss"
    watch = Watch("field", metric, RECIPE)
    for step, value in enumerate(values):
        if step == interruption:
            following = Watch("field", metric, RECIPE)
            following.load_state_dict(json.loads(json.dumps(watch.state_dict())))
            watch = following
        watch.look({metric: value}, step)
        seen = values[: step + 1]
        best = seen.index(max(seen) if rises else min(seen))
        assert (watch.step, watch.since) == (best, step - best)


def test_a_change_that_is_too_small_is_none():
    watch = Watch("field", "loss", RECIPE, minimum_change=0.1)
    for step, loss in enumerate([1.0, 0.95, 0.91, 0.85]):
        watch.look({"loss": loss}, step)
    assert (watch.step, watch.since) == (3, 0)


@pytest.mark.parametrize("metric", ["loss", "validationAccuracy"])
def test_any_number_is_better_than_none_and_none_is_better_than_nothing(metric):
    watch = Watch("field", metric, RECIPE, minimum_change=0.1)
    found = []
    for step, value in enumerate([math.nan, math.nan, 2.0, math.nan, 2.0]):
        following = Watch("field", metric, RECIPE, minimum_change=0.1)
        following.load_state_dict(json.loads(json.dumps(watch.state_dict())))
        watch = following
        watch.look({metric: value}, step)
        found.append((watch.step, watch.since))
    assert found == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]


def test_what_was_best_by_another_metric_is_forgotten():
    watch, other = Watch("field", "loss", RECIPE), Watch("field", "validationAccuracy", RECIPE)
    watch.look({"loss": 7.0}, 5)
    for state in watch.state_dict(), None:
        other.load_state_dict(state)
        assert (other.step, other.since) == (None, 0)


def test_an_unknown_metric_is_named():
    with pytest.raises(ConfigurationError, match=r"spec.checkpoint.bestBy: found los, wanted one of loss"):
        Watch("spec.checkpoint.bestBy", "los", RECIPE).check({"loss"})


def finish(group):
    assert group.wait() == [0] * len(group.processes), group.output()
    return group


def test_training_ends_when_nothing_gets_better(start_ranks):
    stopping = {"patience": 2, "minimumChange": "1000"}
    options = {"config": {"epochs": 50}, "optimisation": {"earlyStopping": stopping}}
    group = finish(start_ranks(**options))
    last = group.reports()[-1]
    assert (last["epoch"], last["totalEpochs"], last["step"], last["totalSteps"]) == (3, 50, 21, 21)
    assert "ending after epoch 3: nothing gets better" in group.output()
    again = finish(start_ranks(**options))
    assert again.reports()[-1]["step"] == 21, "nor does it begin again"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_best_checkpoint_is_kept_and_published(start_ranks, strategy):
    options = {"recipe": GROWING, "MUSTER_STRATEGY": json.dumps({"type": strategy})}
    first = finish(start_ranks("first", config={"epochs": 1}, **options))
    checkpoint = {"bestBy": "validationSize", "keep": 1}
    group = finish(start_ranks("best", config={"epochs": 3}, checkpoint=checkpoint, **options))
    kept = sorted(path.name for path in (group.storage / "checkpoints").iterdir())
    assert kept == ["step-00000007", "step-00000021"]
    model = load_model(group.storage / "model")
    assert (model.description["origin"]["step"], model.description["origin"]["epoch"]) == (7, 1)
    for name, tensor in load_model(first.storage / "model").weights().items():
        assert tensor.equal(model.weights()[name])
    last = group.reports()[-1]
    assert (last["step"], last["model"]["step"]) == (21, 7)
    history = read_json(group.storage / "checkpoints" / kept[-1] / "manifest.json")["state"]["progress"]["history"]
    assert last["validationSize"] == history[0]["validationSize"] < history[-1]["validationSize"]


def test_the_best_is_one_whose_metric_is_a_number(start_ranks):
    checkpoint = {"bestBy": "validationSize", "keep": 1}
    recipe = "tests.worker.train.recipes:MeasuredLate"
    group = finish(start_ranks(recipe=recipe, config={"epochs": 3}, checkpoint=checkpoint))
    assert load_model(group.storage / "model").description["origin"]["epoch"] == 2
    first, second, *_ = (line for line in group.reports() if "validationSize" in line)
    assert first["validationSize"] is None
    assert second["validationSize"] > 0


def test_a_broken_best_checkpoint_is_said_and_the_last_published(start_ranks):
    options = {"recipe": GROWING, "config": {"epochs": 3}, "checkpoint": {"bestBy": "validationSize", "keep": 1}}
    group = finish(start_ranks(**options))
    (group.storage / "model" / "model.json").unlink()
    best = group.storage / "checkpoints" / "step-00000007"
    next(path for path in best.iterdir() if path.name.startswith("__0")).write_bytes(b"torn")
    again = finish(start_ranks(**options))
    assert "the best checkpoint, of step 7, is not there whole: the last one is published" in again.output()
    assert load_model(group.storage / "model").description["origin"]["step"] == 21
