"""Layers that hold small integers compute with the weights that these stand for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from muster_worker.compress.packing import unpack
from muster_worker.compress.quantize import Quantize
from muster_worker.compress.weight_only import GROUP
from tests.worker.train.recipes import Two

LAYERS = [
    pytest.param(nn.Linear(100, 7), torch.randn(3, 100), 0, id="Linear"),
    pytest.param(nn.Linear(257, 3), torch.randn(3, 257), 0, id="odd Linear"),
    pytest.param(nn.Conv1d(3, 5, 3), torch.randn(2, 3, 9), 0, id="Conv1d"),
    pytest.param(nn.Conv2d(8, 6, 3), torch.randn(2, 8, 5, 5), 0, id="Conv2d"),
    pytest.param(nn.ConvTranspose2d(4, 6, 5), torch.randn(2, 4, 5, 5), 1, id="ConvTranspose2d"),
    pytest.param(nn.Embedding(11, 70), torch.tensor([3, 0, 10]), 0, id="Embedding"),
]


def compressed(model, bits):
    model = copy.deepcopy(model).eval()
    assert Quantize(bits=bits).compress(model) > 0
    return model


def wanted_weight(weight, bits, channel):
    """Computed plainly: one channel after the other, one group after the other."""
    largest = 2 ** (bits - 1) - 1
    moved = np.moveaxis(weight, channel, 0)
    rows = moved.reshape(len(moved), -1)
    groups = 1 if bits == 8 else -(-rows.shape[1] // GROUP)
    size = -(-rows.shape[1] // groups)
    found = np.zeros_like(rows)
    for row, into in zip(rows, found, strict=True):
        for start in range(0, len(row), size):
            part = row[start : start + size]
            scale = np.abs(part).max() / np.float32(largest)
            into[start : start + size] = np.round(part / scale) * scale
    return np.moveaxis(found.reshape(moved.shape), 0, channel)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("layer", "inputs", "channel"), LAYERS)
def test_a_layer_computes_with_the_weights_that_the_formula_gives(layer, inputs, channel, bits):
    wanted = copy.deepcopy(layer)
    with torch.no_grad():
        wanted.weight.copy_(torch.from_numpy(wanted_weight(layer.weight.detach().numpy(), bits, channel)))
    found = compressed(layer, bits)
    assert torch.equal(found.weight, wanted.weight)
    torch.testing.assert_close(found(inputs), wanted(inputs))


@pytest.mark.parametrize(("layer", "inputs", "channel"), LAYERS)
def test_its_state_has_integers_and_scales_and_no_weight(layer, inputs, channel):
    numbers, channels = layer.weight.numel(), layer.weight.shape[channel]
    of_eight, of_four = (compressed(layer, bits).state_dict() for bits in (8, 4))
    names = {f"parametrizations.weight.original{number}" for number in (0, 1)}
    assert names == set(of_eight) - {"bias"} == set(of_four) - {"bias"}
    integers, scales = (of_eight[f"parametrizations.weight.original{number}"] for number in (0, 1))
    assert (integers.dtype, integers.nbytes, scales.numel()) == (torch.int8, numbers, channels)
    packed, scales = (of_four[f"parametrizations.weight.original{number}"] for number in (0, 1))
    groups = -(-numbers // channels // GROUP)
    assert packed.dtype == torch.uint8
    assert numbers / 2 <= packed.nbytes <= (numbers + channels * groups) / 2
    assert scales.numel() == channels * groups


@pytest.mark.parametrize("bits", [8, 4])
def test_nothing_of_it_is_trained(bits):
    layer = compressed(nn.Linear(8, 8), bits)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert not layer.weight.requires_grad


def test_a_channel_of_zeros_stays_one():
    layer = nn.Linear(6, 2)
    nn.init.zeros_(layer.weight)
    assert torch.equal(compressed(layer, 8).weight, layer.weight)


@pytest.mark.parametrize("bits", [8, 4])
def test_layers_that_share_a_weight_share_its_integers(bits):
    model = compressed(Two(), bits)
    left, right = (layer.parametrizations.weight for layer in (model.left, model.right))
    assert left.original0.data_ptr() == right.original0.data_ptr()
    assert left.original1.data_ptr() == right.original1.data_ptr()
    assert torch.equal(model.left.weight, model.right.weight)


def test_a_recurrent_layer_is_left_alone_and_others_are_not():
    model = nn.ModuleList([nn.LSTM(3, 4), nn.Linear(4, 2)])
    assert Quantize().compress(model) == 1
    assert isinstance(model[0].weight_hh_l0, nn.Parameter)


@pytest.mark.parametrize("bits", [8, 4])
def test_attention_computes_the_same_by_torchs_fast_path_and_by_its_slow_one(bits):
    model = compressed(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), bits)
    inputs = torch.randn(2, 5, 16)
    slow = model(inputs)
    with torch.inference_mode():
        torch.testing.assert_close(model(inputs), slow.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_it_survives_a_state_dict(bits):
    source, other = compressed(nn.Linear(70, 4), bits), compressed(nn.Linear(70, 4), bits)
    other.load_state_dict(source.state_dict())
    assert torch.equal(other.weight, source.weight)


def test_packed_integers_are_those_of_the_formula():
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.7, -0.3, 0.1, -0.7]]))
    packed = compressed(layer, 4).parametrizations.weight.original0
    assert unpack(packed, 4).tolist() == [7, -3, 1, -7]


@pytest.mark.parametrize(("bits", "kept"), [(8, torch.int8), (4, torch.uint8)])
def test_an_exported_program_holds_the_integers_alone_and_no_device(bits, kept):
    model = compressed(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(36, 5)), bits)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(model, (torch.randn(2, 2, 5, 5),), dynamic_shapes=(batch,))
    large = {name: tensor for name, tensor in program.state_dict.items() if tensor.numel() > 20}
    assert len(large) == 2
    assert {tensor.dtype for tensor in large.values()} == {kept}
    assert not program.constants
    # A conversion to another type would be exported with the device that it was traced on.
    assert "device" not in program.graph_module.code
