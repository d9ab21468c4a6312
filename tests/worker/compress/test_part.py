"""Parts of a linear layer: together they compute what it does, by the very same weights."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from muster_worker.compress.dynamic import DynamicLinear
from muster_worker.compress.part import can_have_parts, keep_inputs, keep_outputs
from muster_worker.compress.quantize import Quantize

STORED = [None, Quantize(bits=8), Quantize(bits=4), Quantize(mode="dynamic")]
stored = pytest.mark.parametrize("how", STORED, ids=["float", "8 bits", "4 bits", "dynamic"])


def made(how, inputs=24, outputs=10, bias=True):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    if how is not None:
        how.compress(layer)
    return layer


def parts(layer, keep, borders):
    """The layer cut at `borders`."""
    found = []
    for start, stop in itertools.pairwise(borders):
        part = copy.deepcopy(layer)
        keep(part, range(start, stop))
        found.append((part, slice(start, stop)))
    return found


def stored_bytes(layer):
    return sum(tensor.nbytes for name, tensor in layer.state_dict().items() if "bias" not in name)


@stored
@given(
    inputs=st.integers(2, 300), outputs=st.integers(2, 20), bias=st.booleans(), at=st.floats(0, 1), back=st.floats(0, 1)
)
def test_together_they_have_the_weights_and_compute_what_the_whole_does(how, inputs, outputs, bias, at, back):
    layer = made(how, inputs, outputs, bias)
    points = torch.randn(3, inputs)
    wanted = layer(points)
    for keep, size in ((keep_outputs, outputs), (keep_inputs, inputs)):
        borders = [0, *sorted((round(at * size), round(back * size))), size]
        found = parts(layer, keep, borders)
        if keep is keep_outputs:
            assert torch.equal(torch.cat([part.weight for part, _ in found]), layer.weight)
            torch.testing.assert_close(torch.cat([part(points) for part, _ in found], dim=-1), wanted)
        else:
            assert torch.equal(torch.cat([part.weight for part, _ in found], dim=1), layer.weight)
            total = sum(part(points[:, kept]) for part, kept in found)
            rounding = {"rtol": 0, "atol": 0.05} if isinstance(layer, DynamicLinear) else {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(total if layer.bias is None else total + layer.bias, wanted, **rounding)


@stored
@pytest.mark.parametrize("keep", [keep_outputs, keep_inputs])
def test_a_part_has_its_share_of_the_bytes(how, keep):
    layer = made(how, inputs=256, outputs=64)
    size = layer.out_features if keep is keep_outputs else layer.in_features
    for part, _ in parts(layer, keep, range(0, size + 1, size // 4)):
        scales = 64 * 4 * (keep is keep_inputs and how is not None)  # one for each channel, on every rank
        assert stored_bytes(part) <= stored_bytes(layer) / 4 + scales
        sizes = (64 // 4, 256) if keep is keep_outputs else (64, 256 // 4)
        assert (part.out_features, part.in_features) == sizes


def test_groups_of_four_bits_are_cut_where_two_scales_would_meet():
    layer = made(Quantize(bits=4), inputs=128, outputs=2)  # two groups of 64
    (first, _), (second, _) = parts(layer, keep_inputs, [0, 48, 128])
    scales = [part.parametrizations.weight.original1 for part in (first, second)]
    assert [one.shape[1] for one in scales] == [1, 5]  # of 48; of 16 each, as one of the first group's is left
    assert torch.equal(torch.cat([first.weight, second.weight], dim=1), layer.weight)


def test_layers_that_compute_otherwise_have_none():
    class Scaled(nn.Linear):
        pass

    quantized = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Embedding(4, 4), Scaled(4, 4))
    Quantize(bits=8).compress(quantized)
    assert [can_have_parts(layer) for layer in quantized] == [True, False, False, False]
    assert [can_have_parts(made(how)) for how in STORED] == [True] * 4
    assert not can_have_parts(nn.ReLU())
