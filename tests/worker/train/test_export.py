"""A published model is what was trained, and says what it is."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from muster_worker.train import export, model_directory
from muster_worker.train.errors import ConfigurationError, StorageError, TrainingError
from muster_worker.train.export import Trained, export_model
from muster_worker.train.model_directory import load_model, published_model
from tests.worker.train.recipes import DataDependent, Two

ORIGIN = {"recipe": "module:Class", "config": {"epochs": 1}, "step": 7, "epoch": 1}


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, points):
        return self.dropout(self.linear(points))


def trained(model=None, inputs=1, samples=3):
    examples = tuple(torch.randn(samples, 4) for _ in range(inputs))
    return Trained(model or Affine(), examples, {"validationLoss": 0.5}, ORIGIN)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "model"


@pytest.mark.parametrize("samples", [1, 3])
def test_it_comes_back_as_it_was(directory, samples):
    source = trained(samples=samples)
    published = export_model(directory, source, "token")
    model = load_model(directory)
    source.model.eval()
    for length in (1, 2, 7):
        inputs = torch.randn(length, 4)
        torch.testing.assert_close(model.program()(inputs), source.model(inputs))
    for name, tensor in source.model.state_dict().items():
        assert torch.equal(model.weights()[name], tensor)
    assert published.bytes == sum(path.stat().st_size for path in directory.iterdir())
    assert published == published_model(directory, ORIGIN)
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_a_buffer_that_nothing_has_filled_comes_back_so(directory):
    source = trained()
    source.model.register_buffer("seen", torch.tensor([1.0, math.nan, -math.inf]))
    export_model(directory, source, "token")
    torch.testing.assert_close(load_model(directory).weights()["seen"], source.model.seen, equal_nan=True)


def test_it_says_what_it_is(directory):
    export_model(directory, trained(), "token")
    description = load_model(directory).description
    assert description["origin"] == ORIGIN
    assert description["metrics"] == {"validationLoss": 0.5}
    assert description["parameters"] == 10
    assert description["inputs"] == [{"name": "points", "datatype": "FP32", "shape": [-1, 4]}]
    assert description["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}]
    assert description["versions"]["torch"] == torch.__version__
    assert set(description["files"]) == {"model.safetensors", "program.pt2", "example.safetensors"}


def test_several_inputs_named_outputs_shared_parameters(directory):
    source = trained(Two(), inputs=2)
    export_model(directory, source, "token")
    model = load_model(directory)
    assert [tensor["name"] for tensor in model.description["inputs"]] == ["first", "second"]
    assert [tensor["name"] for tensor in model.description["outputs"]] == ["sum", "both"]
    source.model.eval()
    inputs = torch.randn(5, 4), torch.randn(5, 4)
    torch.testing.assert_close(model.program()(*inputs), source.model(*inputs))


class Reader(nn.Module):
    """Tokens (N, T) to (N, T, 2), or, where it `pools`, to (N, 2); where it is `rigid`, T is 6."""

    def __init__(self, pools=False, rigid=False):
        super().__init__()
        self.embedding = nn.Embedding(9, 2)
        self.places = nn.Parameter(torch.randn(6, 2))
        self.pools, self.rigid = pools, rigid

    def forward(self, tokens):
        found = self.embedding(tokens) + (self.places if self.rigid else self.places[: tokens.shape[1]])
        return found.mean(1) if self.pools else found


def of_text(model):
    return Trained(model, (torch.randint(9, (3, 6)),), {}, ORIGIN, generation={"context": 6})


@pytest.mark.parametrize(("pools", "wanted"), [(False, [-1, -1, 2]), (True, [-1, 2])])
def test_a_text_has_any_length(directory, pools, wanted):
    source = of_text(Reader(pools))
    export_model(directory, source, "token")
    model = load_model(directory)
    assert [model.description[name][0]["shape"] for name in ("inputs", "outputs")] == [[-1, -1], wanted]
    for length in (2, 5, 6):
        tokens = torch.randint(9, (4, length))
        torch.testing.assert_close(model.program()(tokens), source.model(tokens))


def test_a_text_has_one_length_where_the_model_takes_no_other(directory, caplog):
    export_model(directory, of_text(Reader(rigid=True)), "token")
    description = load_model(directory).description
    assert [description[name][0]["shape"] for name in ("inputs", "outputs")] == [[-1, 6], [-1, 6, 2]]
    assert description["programError"] is None
    assert "the model takes texts of 6 tokens only: RuntimeError: " in caplog.text


def test_the_model_in_training_is_left_as_it_was(directory):
    source = trained()
    export_model(directory, source, "token")
    assert source.model.training


def test_a_model_that_cannot_be_exported_is_published_without_program(directory, caplog):
    export_model(directory, trained(DataDependent()), "token")
    model = load_model(directory)
    assert model.description["program"] is None
    assert model.description["programError"]
    assert set(model.weights()) == {"linear.weight", "linear.bias"}
    assert [path.name for path in sorted(directory.iterdir())] == [
        "example.safetensors",
        "model.json",
        "model.safetensors",
    ]
    assert "cannot be exported as a program" in caplog.text
    with pytest.raises(StorageError, match="has no program: "):
        model.program()


class Flat(nn.Module):
    """Two rows for each sample, as a loss may want them."""

    def forward(self, points):
        return {"whole": points, "halves": points.reshape(-1, 2)}


class Averaged(DataDependent):
    """One number for all samples, by a model that cannot be exported."""

    def forward(self, points):
        return super().forward(points).mean()


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (Flat(), r"of 1 samples, the model's halves has the shape \[2, 2\], wanted \[1, …\]"),
        (Averaged(), r"of 1 samples, the model's output has the shape \[\], wanted \[1, …\]"),
    ],
)
def test_a_model_whose_outputs_are_not_as_many_as_the_samples_is_not_published(directory, model, wanted):
    with pytest.raises(TrainingError, match=wanted):
        export_model(directory, trained(model), "token")
    assert not directory.exists()


class OddlyNamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"first(a=1)": nn.Linear(4, 1)})

    def forward(self, points):
        return self.layers["first(a=1)"](points)


def test_a_model_with_names_that_could_be_code_is_published_without_program(directory):
    export_model(directory, trained(OddlyNamed()), "token")
    assert "layers.first(a=1).weight" in load_model(directory).description["programError"]
    assert not (directory / "program.pt2").exists()


def test_an_old_model_is_replaced(directory):
    export_model(directory, trained(), "first")
    source = trained()
    export_model(directory, source, "second")
    assert torch.equal(load_model(directory).weights()["linear.bias"], source.model.linear.bias)
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "program.pt2", "example.safetensors"])
@pytest.mark.parametrize("damage", ["removed", "flipped", "truncated"])
def test_a_damaged_model_is_refused_by_name(directory, name, damage):
    export_model(directory, trained(), "token")
    path = directory / name
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[:-3])
    with pytest.raises(StorageError, match=name):
        load_model(directory)
    assert published_model(directory, ORIGIN) is None


def test_a_model_of_another_origin_or_format_is_not_taken_for_this_one(directory, monkeypatch):
    export_model(directory, trained(), "token")
    assert published_model(directory, ORIGIN | {"step": 8}) is None
    monkeypatch.setattr(model_directory, "FORMAT", 2)
    with pytest.raises(StorageError, match="its format is 1, wanted 2"):
        load_model(directory)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (lambda points: (points, None), "output_1 is NoneType"),
        (lambda points: {"points": points, "states": (points, points)}, "states is tuple"),
        (lambda points: torch.complex(points, points), "output is torch.complex64"),
    ],
)
def test_outputs_that_cannot_be_told_are_refused_by_name(directory, output, found):
    class Other(Affine):
        def forward(self, points):
            return output(super().forward(points))

    with pytest.raises(ConfigurationError, match=f"the model's {found}, wanted a tensor of numbers"):
        export_model(directory, trained(Other()), "token")
    assert list(directory.parent.iterdir()) == []


def test_a_program_that_computes_something_else_is_not_published(directory, monkeypatch):
    export_model(directory, before := trained(), "first")
    other = Affine().eval()
    right = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda _, *rest, **options: right(other, *rest, **options))
    with pytest.raises(TrainingError, match="was not published: its program computes another output"):
        export_model(directory, trained(), "second")
    assert torch.equal(load_model(directory).weights()["linear.bias"], before.model.linear.bias)
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_a_full_storage_is_named(directory, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_json", full)
    with pytest.raises(StorageError, match=f"could not be written to {directory}: No space left on device"):
        export_model(directory, trained(), "token")
    assert list(directory.parent.iterdir()) == []


def test_model_json_is_plain_json(directory):
    export_model(directory, trained(), "token")
    assert json.loads((directory / "model.json").read_text())["format"] == 1
