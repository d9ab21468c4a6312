"""The smallest weights of every layer become zero, and stay it."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch import nn

from muster_worker.compress.measure import weights_bytes
from muster_worker.compress.prune import Prune
from muster_worker.compress.quantize import Quantize
from tests.worker.train.recipes import Two


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.333, 0.99])
def test_that_fraction_of_each_layer_becomes_zero_and_the_rest_stays(fraction):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Linear(13, 11))
    with torch.no_grad():
        model[1].weight.mul_(0.001)  # all of them smaller than most of the others
    before = [layer.weight.detach().numpy().copy() for layer in model]
    assert Prune(fraction=fraction).compress(model) == 2
    for layer, weight in zip(model, before, strict=True):
        count = round(fraction * weight.size)
        wanted = weight.copy().ravel()
        wanted[np.argsort(np.abs(wanted), kind="stable")[:count]] = 0
        np.testing.assert_array_equal(layer.weight.detach().numpy().ravel(), wanted)


def test_it_is_permanent():
    layer = nn.Linear(4, 3)
    Prune(fraction=0.5).compress(layer)
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert isinstance(layer.weight, nn.Parameter)
    assert not layer._forward_pre_hooks


def test_layers_that_share_a_weight_still_do():
    model = Two()
    Prune(fraction=0.5).compress(model)
    assert model.left.weight is model.right.weight
    assert (model.left.weight == 0).sum() == 8


def test_weights_may_lie_in_memory_as_images_with_channels_last():
    layer = nn.Conv2d(3, 7, 3).to(memory_format=torch.channels_last)
    Prune(fraction=0.5).compress(layer)
    assert (layer.weight == 0).sum() == round(0.5 * layer.weight.numel())


def test_a_recurrent_layer_computes_with_what_was_pruned():
    torch.manual_seed(0)
    layer, wanted = nn.LSTM(3, 4), nn.LSTM(3, 4)
    Prune(fraction=0.5).compress(layer)
    wanted.load_state_dict(layer.state_dict())
    inputs = torch.randn(5, 2, 3)
    torch.testing.assert_close(layer(inputs)[0], wanted(inputs)[0])


def test_zeros_alone_save_no_byte_but_stay_when_quantized_and_leave_less_to_a_compressor():
    torch.manual_seed(0)
    layer = nn.Linear(100, 100)
    before, squeezed = weights_bytes(layer), len(zlib.compress(layer.weight.detach().numpy().tobytes()))
    Prune(fraction=0.8).compress(layer)
    assert weights_bytes(layer) == before
    assert len(zlib.compress(layer.weight.detach().numpy().tobytes())) < 0.4 * squeezed
    zeros = layer.weight == 0
    Quantize(bits=4).compress(layer)
    assert (layer.weight[zeros] == 0).all()
