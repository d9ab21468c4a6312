"""A model is held against the samples that it was published with."""

from __future__ import annotations

import pytest
import torch

from muster_worker.serve.example import check_example
from muster_worker.serve.model import ServedModel, Signature
from muster_worker.serve.tensors import TensorSpec
from muster_worker.train.durable import read_json, write_json
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.model_directory import example

POINTS = TensorSpec("points", "FP32", (-1, 4))
CPU = torch.device("cpu")


def computed_by(program, *outputs: str) -> ServedModel:
    return ServedModel(
        Signature((POINTS,), tuple(TensorSpec(name, "FP32", (-1, 2)) for name in outputs)), program, CPU, "0" * 64
    )


def test_what_was_published_is_what_is_computed(affine):
    model = ServedModel.load(affine, CPU)
    check_example(model, affine)
    inputs, outputs = example(affine)
    assert torch.allclose(model.compute([inputs["points"]])[0], outputs["output"])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda output: output * 1.01, None),  # another device, other sums
        (lambda output: output.bfloat16().float(), None),
        (lambda output: -output, "output of its first sample is "),
        (lambda output: output + output.abs().max(), "output of its first sample is "),
        (lambda output: output * float("nan"), "[nan"),
        (lambda output: output[:1], "output of its first sample is "),
    ],
)
def test_a_little_else_is_let_through_and_anything_else_is_named(affine, change, wanted):
    forward = ServedModel.load(affine, CPU)
    model = computed_by(lambda points: change(forward.compute([points])[0]), "output")
    if wanted is None:
        check_example(model, affine)
    else:
        with pytest.raises(ConfigurationError) as told:
            check_example(model, affine)
        assert "does not compute what it computed when it was published" in str(told.value)
        assert wanted in str(told.value)


def test_a_model_without_an_example_is_not_held_against_anything(affine, tmp_path):
    description = read_json(affine / "model.json")
    del description["files"]["example.safetensors"]
    write_json(tmp_path / "model.json", description)
    check_example(computed_by(lambda points: points, "output"), tmp_path)
