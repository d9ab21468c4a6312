"""A model is compressed step by step, and a step that costs too much is refused by name."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from muster_worker.compress.apply import AccuracyError, apply, compress, prepare
from muster_worker.compress.measure import memory_bytes, weights_bytes
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.export import Trained

STEPS = [
    {"clip": {"standardDeviations": "3.0"}},
    {"prune": {"fraction": "0.5"}},
    {"quantize": {"bits": 8, "mode": "weightOnly", "maxAccuracyDrop": "0.01"}},
]
EXAMPLES = (torch.randn(3, 50),)


def model():
    return nn.Sequential(nn.Linear(50, 40), nn.Dropout(0.5), nn.Linear(40, 10))


def falling(*accuracies):
    """An evaluation that finds one accuracy after the other."""
    found = itertools.chain(accuracies, itertools.repeat(accuracies[-1]))
    return lambda _: {"validationAccuracy": next(found), "validationLoss": 0.5}


def test_each_step_is_reported():
    source = model()
    compressed = apply(source, STEPS, EXAMPLES, falling(0.9, 0.91, 0.89, 0.885))
    assert [report["step"] for report in compressed.reports] == STEPS
    accuracies = [(report["accuracyBefore"], report["accuracyAfter"]) for report in compressed.reports]
    assert accuracies == [(0.9, 0.91), (0.91, 0.89), (0.89, 0.885)]
    clipped, pruned, quantized = compressed.reports
    assert clipped["bytesBefore"] == clipped["bytesAfter"] == pruned["bytesAfter"] == weights_bytes(source)
    assert quantized["bytesAfter"] == weights_bytes(compressed.model) < 0.5 * quantized["bytesBefore"]
    assert quantized["memoryBefore"] == memory_bytes(source)
    assert quantized["memoryAfter"] == memory_bytes(compressed.model)
    assert all(report[name] > 0 for report in compressed.reports for name in ("latencyBefore", "latencyAfter"))
    assert compressed.metrics == {"validationAccuracy": 0.885, "validationLoss": 0.5}


def test_all_steps_are_taken_and_the_model_stays_as_it_was():
    source = model()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    compressed = apply(source, STEPS, EXAMPLES, falling(0.9)).model
    assert source.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())
    for layer, was in ((compressed[0], source[0]), (compressed[2], source[2])):
        assert (layer.weight == 0).float().mean() >= 0.5
        assert layer.weight.unique().numel() <= 255 * len(layer.weight)
        assert layer.weight.abs().max() <= 3.0 * was.weight.std() * 1.001
    assert not compressed.training


@pytest.mark.parametrize(("after", "allowed"), [(0.89, "0.01"), (0.9, "0"), (0.95, "0"), (0.1, "0.8")])
def test_a_step_may_cost_what_is_allowed(after, allowed):
    steps = [{"quantize": {"maxAccuracyDrop": allowed}}]
    assert len(apply(model(), steps, EXAMPLES, falling(0.9, after)).reports) == 1


@pytest.mark.parametrize(
    ("step", "field"),
    [
        ({"clip": {"epsilon": "1", "maxAccuracyDrop": "0.01"}}, "clip"),
        ({"prune": {"fraction": "0.5", "maxAccuracyDrop": "0.01"}}, "prune"),
        ({"quantize": {"bits": 4, "maxAccuracyDrop": "0.01"}}, "quantize"),
    ],
)
def test_a_step_that_costs_more_is_named_with_what_was_found_and_wanted(step, field):
    with pytest.raises(AccuracyError) as raised:
        apply(model(), [{"clip": {"epsilon": "1"}}, step], EXAMPLES, falling(0.95, 0.9, 0.85))
    assert str(raised.value) == (
        f"spec.compression[1].{field}.maxAccuracyDrop: the accuracy fell by 0.05, from 0.9 to 0.85, wanted at most"
        " 0.01: allow more, or compress less"
    )
    assert raised.value.exit_code == 2


def test_an_accuracy_that_is_no_number_is_not_allowed_and_not_told():
    steps = [{"quantize": {"maxAccuracyDrop": "0.8"}}]
    with pytest.raises(AccuracyError, match=r"the accuracy fell by nan, from 0\.9 to nan, wanted at most 0\.8"):
        apply(model(), steps, EXAMPLES, falling(0.9, math.nan))
    (report,) = apply(model(), [{"quantize": {}}], EXAMPLES, falling(0.9, math.nan)).reports
    assert (report["accuracyBefore"], report["accuracyAfter"]) == (0.9, None)


def test_without_accuracy_nothing_can_be_held_to_it():
    steps = [{"clip": {"epsilon": "1"}}, {"quantize": {"maxAccuracyDrop": "0.01"}}]
    with pytest.raises(ConfigurationError, match=r"compression\[1\].quantize.maxAccuracyDrop: found 0.01, wanted none"):
        apply(model(), steps, EXAMPLES, lambda _: {"validationLoss": 0.5})
    (report,) = apply(model(), steps[:1], EXAMPLES, lambda _: {}).reports
    assert (report["accuracyBefore"], report["accuracyAfter"]) == (None, None)


@pytest.mark.parametrize(
    ("layer", "inputs", "step", "wanted"),
    [
        (nn.LayerNorm(4), (3, 4), {"clip": {"epsilon": "1"}}, "floating point weights of two or more dimensions"),
        (nn.Conv1d(4, 2, 1), (3, 4, 5), {"quantize": {"mode": "dynamic"}}, "torch.nn.Linear"),
    ],
)
def test_a_step_that_finds_nothing_to_change_is_named(layer, inputs, step, wanted):
    with pytest.raises(ConfigurationError) as raised:
        apply(layer, [step], (torch.randn(inputs),), lambda _: {})
    (name,) = step
    assert str(raised.value) == f"spec.compression[0].{name}: the model has nothing to change, wanted {wanted}"


def test_a_trained_model_says_what_became_of_it():
    origin = {"recipe": "module:Class", "config": {}, "step": 7, "epoch": 1}
    trained = Trained(model(), EXAMPLES, {"loss": 0.4, "validationLoss": 0.6}, origin)
    compressed = compress(trained, STEPS, falling(0.9))
    assert compressed.metrics == {"loss": 0.4, "validationLoss": 0.5, "validationAccuracy": 0.9}
    assert compressed.origin == origin | {"compression": STEPS}
    assert len(compressed.compression) == 3
    assert compressed.parameters == 50 * 40 + 40 + 40 * 10 + 10


@pytest.mark.parametrize(
    "step", [{"quantize": {"bits": 4}}, {"quantize": {"mode": "dynamic"}}, {"clip": {"epsilon": 1}}], ids=str
)
def test_another_model_of_the_recipe_can_take_the_weights(step):
    compressed, other = apply(model(), [step], EXAMPLES, lambda _: {}).model, model().eval()
    prepare(other, [step])
    other.load_state_dict(compressed.state_dict())
    torch.testing.assert_close(other(*EXAMPLES), compressed(*EXAMPLES))
