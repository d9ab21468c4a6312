"""Linear layers compute with integers what the formula gives."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from muster_worker.compress import dynamic
from muster_worker.compress.dynamic import DynamicLinear
from muster_worker.compress.quantize import Quantize
from muster_worker.train.export import Trained, export_model
from muster_worker.train.model_directory import load_model


def compressed(model):
    model = copy.deepcopy(model).eval()
    assert Quantize(mode="dynamic").compress(model) > 0
    return model


def integers_of(rows, largest):
    scales = np.abs(rows).max(axis=1, keepdims=True) / np.float32(largest)
    scales[scales == 0] = 1
    return np.round(rows / scales).astype(np.int64), scales


@pytest.mark.long
@given(st.integers(2, 40), st.integers(1, 20), st.integers(1, 9), st.booleans())
def test_it_is_the_formula_whatever_the_sizes(inputs, outputs, samples, bias):
    torch.manual_seed(inputs)
    layer = nn.Linear(inputs, outputs, bias=bias)
    points = torch.randn(samples, inputs)
    points[0] = 0
    weight, weight_scales = integers_of(layer.weight.detach().numpy(), 63)
    rows, row_scales = integers_of(points.numpy(), 127)
    wanted = (rows @ weight.T) * (row_scales.astype(np.float64) * weight_scales.T)
    if bias:
        wanted = wanted + layer.bias.detach().numpy()
    np.testing.assert_allclose(compressed(layer)(points).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_it_is_near_what_the_layer_computed():
    torch.manual_seed(0)
    layer, points = nn.Linear(256, 64), torch.randn(50, 256)
    wanted = layer(points)
    error = (compressed(layer)(points) - wanted).norm() / wanted.norm()
    assert 0 < error < 0.02


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 6), (2, 3, 4, 6)])
def test_inputs_may_have_any_shape(shape):
    layer = nn.Linear(6, 5)
    assert compressed(layer)(torch.randn(shape)).shape == layer(torch.randn(shape)).shape


def test_a_sample_does_not_depend_on_those_it_is_computed_with():
    layer = compressed(nn.Linear(30, 10))
    points = torch.randn(4, 30)
    points[3] *= 1000
    assert torch.equal(layer(points)[:1], layer(points[:1]))


def test_its_state_has_integers_and_scales_and_no_weight():
    layer = compressed(nn.Linear(30, 10))
    state = layer.state_dict()
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()} == {
        "bias": (torch.float32, (10,)),
        "integers": (torch.int8, (10, 30)),
        "scales": (torch.float32, (10, 1)),
    }
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


def test_layers_in_layers_and_shared_ones_are_found_and_subclasses_left_alone():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Sequential(shared, nn.Linear(4, 4)), nn.MultiheadAttention(4, 2))
    assert Quantize(mode="dynamic").compress(model) == 2
    assert model[0] is model[1][0]
    assert isinstance(model[0], DynamicLinear)
    assert isinstance(model[1][1], DynamicLinear)
    assert not isinstance(model[2].out_proj, DynamicLinear)


def test_whoever_reads_the_weight_gets_what_the_integers_stand_for():
    layer = nn.Linear(16, 32)
    weight = layer.weight.detach().clone()
    compressed_weight = compressed(layer).weight
    assert (compressed_weight - weight).norm() / weight.norm() < 0.02


def test_a_transformer_computes_the_same_in_inference_and_as_a_program(tmp_path):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = compressed(nn.TransformerEncoder(layer, 2).eval())
    inputs, padding = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    slow = model(inputs, src_key_padding_mask=padding).detach()
    with torch.inference_mode():
        fast = model(inputs, src_key_padding_mask=padding)
    torch.testing.assert_close(fast[~padding], slow[~padding])
    export_model(tmp_path / "model", Trained(model, (inputs,), {}, {}), "token")
    assert load_model(tmp_path / "model").description["programError"] is None


def test_a_sum_that_may_not_fit_is_not_computed_with_integers(monkeypatch):
    assert 127 * 63 * dynamic.LONGEST < 2**31 <= 127 * 63 * (dynamic.LONGEST + 1)
    monkeypatch.setattr(dynamic, "LONGEST", 5)
    model = nn.ModuleList([nn.Linear(5, 2), nn.Linear(6, 2)])
    assert Quantize(mode="dynamic").compress(model) == 1
    assert isinstance(model[1].weight, nn.Parameter)


def test_a_layer_of_one_input_is_left_alone():
    assert Quantize(mode="dynamic").compress(nn.Linear(1, 5)) == 0


PRODUCT = """
import torch
from muster_worker.compress.quantize import Quantize
layer = torch.nn.Linear(512, 64)
with torch.no_grad():
    layer.weight.fill_(1.0)
Quantize(mode="dynamic").compress(layer)
for points in (torch.ones(3, 512), -torch.ones(3, 512)):
    torch.testing.assert_close(layer(points), points.sum(dim=1, keepdim=True) + layer.bias)
"""


@pytest.mark.long
@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX512_CORE", "AVX2", "SSE41"])
def test_the_largest_integers_are_multiplied_exactly_on_older_cpus(instructions):
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    subprocess.run([sys.executable, "-c", PRODUCT], check=True, timeout=60, env=environment)


@pytest.mark.parametrize(
    "points",
    [torch.randn(4, 30).as_strided((1, 30), (0, 1)), torch.randn(30).expand(3, 30), torch.randn(30, 4).t()],
    ids=["no stride", "one row", "columns"],
)
def test_it_does_not_matter_how_the_inputs_lie_in_memory(points):
    layer = compressed(nn.Linear(30, 10))
    torch.testing.assert_close(layer(points), layer(points.clone(memory_format=torch.contiguous_format)))


def test_an_exported_program_holds_the_integers_alone_and_computes_with_them():
    model = compressed(nn.Sequential(nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 30)))
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(model, (torch.randn(2, 36),), dynamic_shapes=(batch,))
    kinds = {name: tensor.dtype for name, tensor in program.state_dict.items() if tensor.dim() == 2}
    assert {name for name, kind in kinds.items() if kind == torch.int8} == {"0.integers", "2.integers"}
    assert {name for name, kind in kinds.items() if kind != torch.int8} == {"0.scales", "2.scales"}
    assert program.graph_module.code.count("_int_mm.default") == 2
    for samples in (1, 7):
        points = torch.randn(samples, 36)
        torch.testing.assert_close(program.module()(points), model(points))


def test_what_is_not_linear_can_have_its_weights_quantized_after_it():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3))
    assert Quantize(mode="dynamic").compress(model) == 1
    assert Quantize().compress(model) == 1
    assert model(torch.tensor([1, 2])).shape == (2, 3)
    assert all(tensor.dtype == torch.int8 for tensor in model.state_dict().values() if tensor.numel() > 10)
