"""A TorchScript file becomes a model directory that is served like any other."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
import tritonclient.http

from muster_worker import cli
from muster_worker.serve.model import ServedModel
from muster_worker.serve.package import parse_input
from muster_worker.train.errors import ConfigurationError, StorageError
from tests.worker.serve.conftest import Affine, SumAndBoth

CPU = torch.device("cpu")


def scripted(path, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(model.eval()), path)
    return path


@pytest.fixture
def script(tmp_path):
    return scripted(tmp_path / "affine.pt", Affine())


def test_it_is_served_under_the_names_and_with_the_shapes_that_were_said(script, tmp_path, serve):
    assert cli.main(["package", str(script), str(tmp_path / "affine"), "--input", "points:FP32:-1,4"]) == 0
    served = serve(tmp_path / "affine")
    client = served.client()
    about = client.get_model_metadata("affine")
    assert about["inputs"] == [{"name": "points", "datatype": "FP32", "shape": [-1, 4]}]
    assert about["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}]
    points = tritonclient.http.InferInput("points", [3, 4], "FP32")
    points.set_data_from_numpy(np.arange(12, dtype=np.float32).reshape(3, 4))
    answer = client.infer("affine", [points]).as_numpy("output")
    np.testing.assert_allclose(answer, [[6, 7], [22, 23], [38, 39]])


def test_several_inputs_and_named_outputs_of_other_types(tmp_path):
    script = scripted(tmp_path / "two.pt", Named())
    words = [
        "package",
        str(script),
        str(tmp_path / "two"),
        "--input",
        "first:INT64:-1,2",
        "--input",
        "second:INT64:-1,2",
    ]
    assert cli.main(words) == 0
    model = ServedModel.load(tmp_path / "two", CPU)
    assert [(one.name, one.datatype, one.shape) for one in model.signature.outputs] == [
        ("sum", "INT64", (-1, 2)),
        ("first_of_each", "INT64", (-1,)),
    ]
    total, first = model.compute([torch.tensor([[1, 2]]), torch.tensor([[3, 4]])])
    assert (total.tolist(), first.tolist()) == ([[4, 6]], [4])


class Named(SumAndBoth):
    def forward(self, first: torch.Tensor, second: torch.Tensor):
        return {"sum": first + second, "first_of_each": (first + second)[:, 0]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("points", "found points, wanted NAME:DATATYPE:SHAPE"),
        ("points:FLOAT:-1,4", "one of BF16, BOOL"),
        ("points:FP32:-1,x", "found points:FP32:-1,x"),
        ("points:FP32:-1,0", "where -1 is any length"),
        (":FP32:-1,4", "such as images:FP32"),
    ],
)
def test_an_input_that_is_not_described_well_is_refused_with_an_example(text, said):
    with pytest.raises(ConfigurationError, match=said):
        parse_input(text)


def test_inputs_that_the_model_does_not_take_are_told_with_its_own_words(script, tmp_path, capsys):
    words = ["package", str(script), str(tmp_path / "affine"), "--input", "points:FP32:-1,5"]
    assert cli.main(words) == ConfigurationError.exit_code
    said = capsys.readouterr().err
    assert "the model does not take points:FP32:[-1, 5]" in said
    assert "mat1 and mat2 shapes cannot be multiplied" in said
    assert not (tmp_path / "affine").exists()


@pytest.mark.parametrize("content", [b"no archive", b""], ids=["other", "empty"])
def test_what_is_no_torchscript_is_refused(content, tmp_path, capsys):
    (tmp_path / "wrong.pt").write_bytes(content)
    words = ["package", str(tmp_path / "wrong.pt"), str(tmp_path / "model"), "--input", "points:FP32:-1,4"]
    assert cli.main(words) == StorageError.exit_code
    assert "wrong.pt is no TorchScript file" in capsys.readouterr().err


class Flat(torch.nn.Module):
    def forward(self, points: torch.Tensor):
        return {"whole": points, "halves": points.reshape(-1, 2), "mean": points.mean()}


def test_an_output_that_is_not_as_many_as_the_samples_is_refused_by_name(tmp_path, capsys):
    words = ["package", str(scripted(tmp_path / "flat.pt", Flat())), str(tmp_path / "flat"), "--input"]
    assert cli.main([*words, "points:FP32:-1,4"]) == ConfigurationError.exit_code
    assert "the model's output halves: found 4 and 6 results for 2 and 3 samples, wanted" in capsys.readouterr().err
    assert not (tmp_path / "flat").exists()
    assert cli.main([*words, "points:FP32:3,4"]) == 0
    assert not ServedModel.load(tmp_path / "flat", CPU).signature.batched


def test_a_file_that_has_changed_since_is_not_loaded(script, tmp_path):
    cli.main(["package", str(script), str(tmp_path / "affine"), "--input", "points:FP32:-1,4"])
    with (tmp_path / "affine" / "model.pt").open("r+b") as file:
        file.seek(100)
        file.write(b"x")
    with pytest.raises(StorageError, match=r"model\.pt"):
        ServedModel.load(tmp_path / "affine", CPU)


def test_a_directory_of_other_things_is_not_replaced_and_one_of_a_model_is(script, tmp_path, capsys, monkeypatch):
    words = ["--input", "points:FP32:-1,4"]
    monkeypatch.chdir(tmp_path)
    for place in (".", str(tmp_path), "affine.pt"):
        assert cli.main(["package", str(script), place, *words]) == ConfigurationError.exit_code
    said = capsys.readouterr().err
    assert said.count(f"{tmp_path}: found affine.pt there, which is no model's and would be lost, wanted a ") == 2
    assert "affine.pt: found Not a directory, wanted a directory for the model" in said
    assert list(tmp_path.iterdir()) == [script]
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        assert cli.main(["package", str(script), "empty", *words]) == 0
        assert {path.name for path in (tmp_path / "empty").iterdir()} == {"model.json", "model.pt"}


def test_it_has_no_layers_that_a_group_could_divide(script, tmp_path):
    cli.main(["package", str(script), str(tmp_path / "affine"), "--input", "points:FP32:-1,4"])
    assert json.loads((tmp_path / "affine" / "model.json").read_text())["origin"] == {"torchscript": "affine.pt"}
    from muster_worker.serve.model import intact, recipe_and_model

    with pytest.raises(ConfigurationError, match="made by no recipe"):
        recipe_and_model(intact(tmp_path / "affine")[0])
