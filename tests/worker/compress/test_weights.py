"""What is compressed, and what is left alone."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from muster_worker.compress.weights import weights
from tests.worker.train.recipes import Two


def names(model):
    named = {parameter: name for name, parameter in model.named_parameters()}
    return [named[weight.value] for weight in weights(model)]


def test_matrices_and_more_are_weights_and_single_numbers_of_channels_are_not():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Conv1d(4, 3, 2), nn.BatchNorm1d(3), nn.Linear(2, 2), nn.LayerNorm(2))
    assert names(model) == ["0.weight", "1.weight", "3.weight"]


def test_any_kind_of_module_may_have_weights():
    assert names(nn.MultiheadAttention(4, 2)) == ["in_proj_weight", "out_proj.weight"]
    assert names(nn.GRU(3, 2)) == ["weight_ih_l0", "weight_hh_l0"]


def test_a_weight_that_layers_share_is_one_with_several_places():
    model = Two()
    (weight,) = weights(model)
    assert weight.value is model.left.weight
    assert weight.places == ((model.left, "weight"), (model.right, "weight"))


def test_integers_and_what_weights_are_computed_from_are_left_alone():
    model = nn.Module()
    model.counts = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    model.normed = weight_norm(nn.Linear(3, 2))
    assert weights(model) == []
