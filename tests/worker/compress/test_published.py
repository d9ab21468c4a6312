"""A compressed model is published with its integers, and computed without its recipe's code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from muster_worker.compress.apply import compress
from muster_worker.serve.example import check_example
from muster_worker.serve.model import ServedModel
from muster_worker.train.export import Trained, export_model
from muster_worker.train.model_directory import load_model, published_model
from tests.worker.train.recipes import DataDependent, Two

CPU = torch.device("cpu")
QUANTIZED = [
    [{"quantize": {"bits": 8}}],
    [{"quantize": {"bits": 4}}],
    [{"quantize": {"mode": "dynamic"}}],
    [{"clip": {"standardDeviations": 2}}, {"prune": {"fraction": "0.3"}}, {"quantize": {"bits": 4}}],
    [{"quantize": {"mode": "dynamic"}}, {"quantize": {"bits": 4}}],
]


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))

    def forward(self, images):
        return self.layers(images)


def published(directory, model, steps, examples, recipe="nowhere:Gone"):
    origin = {"recipe": recipe, "config": {}, "step": 7, "epoch": 1}
    compressed = compress(Trained(model, examples, {}, origin), steps, lambda _: {})
    export_model(directory, compressed, "token")
    return compressed


@pytest.mark.parametrize("steps", QUANTIZED, ids=str)
def test_it_is_served_without_its_recipe_and_computes_what_was_compressed(tmp_path, steps):
    compressed = published(tmp_path / "model", Convolutions(), steps, (torch.rand(3, 1, 8, 8),))
    served = ServedModel.load(tmp_path / "model", CPU)
    served.warm_up()
    check_example(served, tmp_path / "model")
    for samples in (1, 2, 7):
        images = torch.rand(samples, 1, 8, 8)
        (output,) = served.compute([images])
        torch.testing.assert_close(output, compressed.model(images).detach())


@pytest.mark.parametrize("steps", QUANTIZED[:3], ids=str)
def test_neither_file_has_a_weight_in_floating_point(tmp_path, steps):
    published(tmp_path / "model", nn.Linear(100, 50), steps, (torch.rand(3, 100),))
    model = load_model(tmp_path / "model")
    program = model.program()
    for state in (model.weights(), program.state_dict()):
        assert {tensor.dtype for tensor in state.values() if tensor.numel() >= 2500} <= {torch.int8, torch.uint8}
        assert sum(tensor.nbytes for tensor in state.values()) < 6000


def test_it_says_how_it_was_made_and_what_that_cost(tmp_path):
    steps = QUANTIZED[3]
    compressed = published(tmp_path / "model", nn.Linear(100, 50), steps, (torch.rand(3, 100),))
    description = load_model(tmp_path / "model").description
    assert description["compression"] == list(compressed.compression)
    assert [report["step"] for report in description["compression"]] == description["origin"]["compression"] == steps
    assert description["parameters"] == 5050
    assert published_model(tmp_path / "model", compressed.origin) is not None
    assert published_model(tmp_path / "model", compressed.origin | {"compression": steps[:1]}) is None


@pytest.mark.parametrize("steps", QUANTIZED[:3], ids=str)
def test_several_inputs_and_shared_weights(tmp_path, steps):
    compressed = published(tmp_path / "model", Two(), steps, (torch.randn(3, 4), torch.randn(3, 4)))
    inputs = torch.randn(5, 4), torch.randn(5, 4)
    found = load_model(tmp_path / "model").program()(*inputs)
    for name, tensor in compressed.model(*inputs).items():
        torch.testing.assert_close(found[name], tensor)


@pytest.mark.parametrize("steps", QUANTIZED[:3], ids=str)
def test_without_a_program_the_recipe_has_a_model_that_takes_the_integers(tmp_path, steps):
    compressed = published(
        tmp_path / "model", DataDependent(), steps, (torch.ones(3, 4),), "tests.worker.train.recipes:Unexportable"
    )
    assert load_model(tmp_path / "model").description["program"] is None
    served = ServedModel.load(tmp_path / "model", CPU)
    for points in (torch.rand(2, 4), -torch.rand(2, 4)):
        (output,) = served.compute([points])
        torch.testing.assert_close(output, compressed.model(points).detach())
