"""Training by torch_xla, on PJRT's CPU: `make test-xla`. One process, for that is all that CPUs are joined to there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from muster_worker.train.durable import read_json
from tests.worker.train.recipes import Line
from tests.worker.train.test_distillation import LOGITS, taught_by
from tests.worker.train.test_training import assert_same, finish, interrupted, weights

metrics = pytest.importorskip("torch_xla.debug.metrics", reason="this image has no torch_xla")

ON_XLA = {"MUSTER_BACKEND": "xla", "PJRT_DEVICE": "CPU", "LOCAL_WORLD_SIZE": "1"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""XLA adds up in another order, and a training amplifies that."""

pytestmark = pytest.mark.xla


class Counted(Line):
    """Prints, at every evaluation of a batch, how many programs were compiled until then."""

    def metrics(self, output, target):
        print("compiled", metrics.counter_value("UncachedCompile") or 0)
        return super().metrics(output, target)


class Noticing(Line):
    """Keeps whether it was ever given a number above 1, and one above 100."""

    def model(self):
        return Noticer()


class Noticer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("seen", torch.zeros(2, dtype=torch.bool))

    def forward(self, points):
        if self.training:
            self.seen.logical_or_(torch.stack([(points > limit).any() for limit in (1, 100)]))
        return self.linear(points)


def history(group):
    manifest = read_json(max((group.storage / "checkpoints").iterdir()) / "manifest.json")
    return manifest["state"]["progress"]["history"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"config": {"batchSize": 7}, "optimisation": {"gradientAccumulation": 3}},
        {"optimisation": {"maxGradientNorm": "0.5"}},
        {"optimisation": {"learningRate": {"schedule": "cosine", "warmUpSteps": 5}}},
    ],
    ids=["plain", "accumulated", "clipped", "scheduled"],
)
def test_the_same_is_learned_as_on_the_cpu(start_ranks, options):
    on_cpu = finish(start_ranks("cpu", 1, **options))
    on_xla = finish(start_ranks("xla", 1, **options, **ON_XLA))
    assert_same(weights(on_xla), weights(on_cpu), **CLOSE)
    for found, wanted in zip(history(on_xla), history(on_cpu), strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


def test_layers_share_a_weight_and_keep_running_means_as_on_the_cpu(start_ranks):
    recipe = "tests.worker.train.recipes:Pair"
    on_cpu = weights(finish(start_ranks("cpu", 1, recipe=recipe)))
    on_xla = weights(finish(start_ranks("xla", 1, recipe=recipe, **ON_XLA)))
    assert torch.equal(on_xla["left.weight"], on_xla["right.weight"])
    assert_same(on_xla, on_cpu, rtol=0, atol=1e-3)  # biases before a norm have no gradient but what rounding leaves


def test_buffers_of_yes_and_no_stay_such(start_ranks):
    found = weights(finish(start_ranks(count=1, recipe="tests.worker.train.test_xla:Noticing", **ON_XLA)))
    assert torch.equal(found["seen"], torch.tensor([True, False]))


@pytest.mark.parametrize(("first", "second"), [(ON_XLA, {}), ({}, ON_XLA)], ids=["xla to cpu", "cpu to xla"])
def test_a_checkpoint_is_gone_on_from_on_the_other_device(start_ranks, first, second):
    options = {"config": {"epochs": 100, "samples": 301}, "optimisation": {"learningRate": {"initial": "0.002"}}}
    whole = finish(start_ranks("whole", 1, **options))
    left_at = interrupted(start_ranks("changing", 1, **options, **first), step=20)
    last = finish(start_ranks("changing", 1, **options, **second))
    assert last.reports()[-1]["resumedFromStep"] == left_at
    assert_same(weights(last), weights(whole), rtol=1e-3, atol=1e-4)


def test_an_interrupted_training_ends_like_an_uninterrupted_one(start_ranks):
    """Bit for bit, with random numbers of the device's own."""
    options = {
        "config": {"epochs": 30, "dropout": 0.2, "samples": 300},
        "checkpoint": {"everySteps": 50, "asynchronous": True},
        **ON_XLA,
    }
    whole = finish(start_ranks("whole", 1, **options))
    interrupted(start_ranks("interrupted", 1, **options), step=150)
    second = finish(start_ranks("interrupted", 1, **options))
    assert_same(weights(second), weights(whole), rtol=0, atol=0)


def test_a_model_learns_from_another_and_is_made_smaller(start_ranks):
    teacher = finish(start_ranks("teacher", 1, recipe=LOGITS, config={"width": 16}, **ON_XLA))
    options = {"recipe": LOGITS, **taught_by(teacher), "MUSTER_COMPRESSION": '[{"quantize": {"bits": 8}}]'}
    on_cpu = finish(start_ranks("cpu", 1, **options))
    on_xla = finish(start_ranks("xla", 1, **options, **ON_XLA))
    for name, wanted in history(on_cpu)[-1].items():
        assert history(on_xla)[-1][name] == pytest.approx(wanted, rel=1e-4), name
    (step,) = on_xla.reports()[-1]["model"]["compression"]
    assert step["bytesAfter"] < step["bytesBefore"]


def test_what_the_device_can_do_is_measured_before_the_first_step(start_ranks):
    group = finish(start_ranks(count=1, **ON_XLA))
    (found,) = next(line["preflight"] for line in group.reports() if "preflight" in line)
    assert found["rank"] == 0
    assert found["flops"] > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_trains_in_the_precision_that_is_asked_for(start_ranks, precision):
    group = finish(start_ranks(count=1, config={"precision": precision, "epochs": 10}, **ON_XLA))
    assert history(group)[-1]["loss"] < history(group)[0]["loss"] / 2
    assert {tensor.dtype for tensor in weights(group).values()} == {torch.float32}


def test_steps_of_the_same_shapes_are_not_compiled_again(start_ranks):
    optimisation = {"maxGradientNorm": "0.5", "learningRate": {"schedule": "cosine"}}
    recipe = "tests.worker.train.test_xla:Counted"
    group = finish(start_ranks(count=1, recipe=recipe, config={"epochs": 6}, optimisation=optimisation, **ON_XLA))
    counted = [int(line.rpartition(" ")[2]) for line in group.output().splitlines() if line.startswith("compiled ")]
    looks = 1 + 6 * 3  # at the metrics' names, and at three batches of each epoch
    assert len(counted) == looks
    after_two_epochs = counted[1 + 2 * 3 :]
    assert 0 < after_two_epochs[0] < 30
    assert set(after_two_epochs) == {after_two_epochs[0]}, counted


def test_a_parameter_that_a_step_does_not_reach_is_named(start_ranks):
    """On another rank it may be reached: what they do together has to be one program."""
    group = start_ranks(count=1, recipe="tests.worker.train.recipes:ReachedLate", **ON_XLA)
    assert group.wait() == [2]
    assert "one has not reached second.weight: wanted requires_grad_(False) for what is not to" in group.output()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"precision": "float16"}}, "spec.recipe.config.precision: found float16, which needs a GPU"),
        ({"MUSTER_STRATEGY": '{"type": "fsdp"}'}, "spec.strategy.type: found fsdp with the backend xla, wanted ddp"),
        ({"count": 2}, "spec.backend: found xla with 2 processes, of which PJRT joins 1 on CPU"),
    ],
    ids=["float16", "fsdp", "two processes"],
)
def test_what_does_not_go_together_is_said(start_ranks, options, message):
    group = start_ranks(**{"count": 1, **options}, **ON_XLA)
    assert set(group.wait()) == {2}
    assert message in group.output()
