"""No weight is larger than it may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from muster_worker.compress.clip import Clip


@pytest.fixture
def model():
    """Two layers whose weights differ in size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    with torch.no_grad():
        model[1].weight.mul_(5)
    return model


def test_all_layers_are_limited_to_one_value(model):
    before = [layer.weight.detach().numpy().copy() for layer in model]
    biases = [layer.bias.detach().clone() for layer in model]
    assert Clip(epsilon=0.1).compress(model) == 2
    for layer, weight, bias in zip(model, before, biases, strict=True):
        np.testing.assert_array_equal(layer.weight.detach().numpy(), np.minimum(np.maximum(weight, -0.1), 0.1))
        assert torch.equal(layer.bias, bias)
    assert (np.abs(before[1]) > 0.1).any(), "or nothing was shown"


def test_each_layer_is_limited_by_its_own_standard_deviation(model):
    before = [layer.weight.detach().numpy().copy() for layer in model]
    Clip(standard_deviations=1.5).compress(model)
    for layer, weight in zip(model, before, strict=True):
        limit = 1.5 * np.sqrt(np.mean((weight - weight.mean()) ** 2))
        np.testing.assert_allclose(layer.weight.detach().numpy(), np.clip(weight, -limit, limit), rtol=1e-5)
        assert (np.abs(weight) > limit).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_weights_that_do_not_deviate_stay(shape):
    layer = nn.Linear(*shape)
    nn.init.constant_(layer.weight, 0.7)
    Clip(standard_deviations=3.0).compress(layer)
    assert (layer.weight == 0.7).all()


def test_a_recurrent_layer_computes_with_what_was_clipped():
    layer = nn.LSTM(3, 4)
    inputs = torch.randn(5, 2, 3)
    before, _ = layer(inputs)
    Clip(epsilon=0.01).compress(layer)
    assert layer.weight_hh_l0.abs().max() <= 0.01
    assert not torch.allclose(layer(inputs)[0], before)
