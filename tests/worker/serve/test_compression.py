"""A published model gets a smaller copy, made once, which is served; or a sentence why not."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import nn

from muster_worker import cli
from muster_worker.serve.example import check_example
from muster_worker.serve.model import ServedModel, recipe_and_model
from muster_worker.train.export import Trained, export_model
from muster_worker.train.model_directory import load_model
from muster_worker.train.trainer import built
from tests.worker.train.recipes import Line

CPU = torch.device("cpu")
EIGHT = [{"quantize": {"bits": 8}}]
CLIPPED = [{"clip": {"epsilon": "0.3"}}]


class Wide(Line):
    """Wide enough that weights are most of its file."""

    def model(self):
        widths = (4, 512, 512, 1)
        layers = (nn.Linear(*pair, bias=False) for pair in itertools.pairwise(widths))
        return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))

    def metrics(self, output, target):
        """It need not be trained: whatever it says is right, unless that is next to nothing."""
        return {"accuracy": (output.abs() > 1e-4).float().mean()}


@pytest.fixture
def published(tmp_path):
    """The model of a recipe that measures its accuracy, as a job publishes it."""
    recipe = Wide(Wide.config_type())
    model, _, validation = built(recipe, CPU)
    examples = (torch.stack([validation[index][0] for index in range(3)]),)
    origin = {"recipe": f"{__name__}:Wide", "config": {}, "step": 7, "epoch": 1}
    export_model(tmp_path / "model", Trained(model, examples, {"validationLoss": 1.0}, origin), "token")
    return tmp_path / "model"


def compress(source, steps, *more):
    """The exit code, what was told, and where the copy is to be."""
    small, report = source.parent / "small", source.parent / "report.json"
    report.unlink(missing_ok=True)
    code = cli.main(["compress", str(source), str(small), "--steps", json.dumps(steps), "--report", str(report), *more])
    return code, json.loads(report.read_text()) if report.exists() else None, small


def test_the_copy_is_smaller_is_told_of_and_is_served(published):
    code, told, small = compress(published, EIGHT)
    assert code == 0
    served = ServedModel.load(small, CPU, told["sha256"])
    check_example(served, small)
    (report,) = told["compression"]
    assert report["step"] == EIGHT[0]
    assert report["bytesAfter"] < 0.4 * report["bytesBefore"]
    assert report["accuracyBefore"] == report["accuracyAfter"] > 0.9
    original = load_model(published).description
    assert original["compression"] == [], "the model itself stays as it was"
    assert load_model(small).description["parameters"] == original["parameters"]


def test_it_is_made_once_of_the_same_model_by_the_same_steps(published):
    def made(steps):
        _, _, small = compress(published, steps)
        return (small / "model.json").stat().st_ino

    first = made(EIGHT)
    assert made(EIGHT) == first
    assert made(CLIPPED) != first


def test_what_a_job_has_clipped_is_quantized_and_what_it_has_quantized_is_not_clipped(published):
    _, _, small = compress(published, CLIPPED)
    clipped = small.rename(published.parent / "clipped")
    _, told, small = compress(clipped, EIGHT)
    assert load_model(small).description["origin"]["compression"] == [*CLIPPED, *EIGHT]
    _, model = recipe_and_model(load_model(small))
    torch.testing.assert_close(model(torch.zeros(1, 4)), load_model(small).program()(torch.zeros(1, 4)))
    quantized = small.rename(published.parent / "quantized")
    _, told, _ = compress(quantized, CLIPPED)
    assert told["error"].startswith("spec.compression[0].clip: the model has nothing to change, wanted ")


def test_neither_the_model_itself_nor_other_things_are_replaced(published, capsys):
    other = published.parent / "other"
    other.mkdir()
    (other / "notes").touch()
    before = load_model(published)
    for into in (published, published / ".." / "model", other):
        assert cli.main(["compress", str(published), str(into), "--steps", json.dumps(EIGHT)]) == 2
    said = capsys.readouterr().err
    assert said.count("model: found the model itself, wanted another directory for its copy") == 2
    assert "other: found notes there, which is no model's and would be lost" in said
    assert load_model(published) == before
    assert (other / "notes").exists()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [{"clip": {"epsilon": "1e-6", "maxAccuracyDrop": "0.01"}}],
            "spec.compression[0].clip.maxAccuracyDrop: the acc",
        ),
        ([{"squeeze": {}}], "spec.compression[0].squeeze: unknown technique, wanted "),
    ],
)
def test_what_would_come_again_is_told_and_nothing_is_written(published, steps, message, capsys):
    code, told, small = compress(published, steps)
    assert (code, small.exists()) == (0, False)
    assert told["error"].startswith(message)
    assert message in capsys.readouterr().err


def test_without_a_report_it_is_the_exit_code(published, capsys):
    words = ["compress", str(published), str(published.parent / "small"), "--steps", '[{"squeeze": {}}]']
    assert cli.main(words) == 2
    assert "unknown technique" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*words[:-1], "{"])
    assert "found text that is no JSON" in capsys.readouterr().err


def test_another_model_is_refused(published):
    _, told, _ = compress(published, EIGHT, "--sha256", "a" * 64)
    assert told["error"].startswith("spec.model.sha256: ")


def test_storage_that_fails_is_tried_again_by_whoever_started_it(published):
    (published / "model.safetensors").write_bytes(b"torn")
    code, told, _ = compress(published, EIGHT)
    assert (code, told) == (1, None)
