"""What cannot be served is refused in words that say why, and what is served is not copied."""

from __future__ import annotations

import json

import pytest
import torch

from muster_worker.serve.torchserve.archive import archive
from tests.worker.train.recipes import DataDependent


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        (("--sha256", "0" * 64), 2, "error: spec.model.sha256: the model in "),
        (("--name", "no name"), 2, "error: --name: TorchServe takes no model that is called no name: "),
    ],
    ids=["checksum", "name"],
)
def test_a_model_that_is_not_to_be_served_is_refused(torchserve, affine, words, code, wanted):
    served = torchserve(affine, *words, ready=False)
    assert wanted in served.rest()
    assert served.process.returncode == code


def test_a_worker_that_cannot_load_the_model_says_why(torchserve, recipes_model):
    directory = recipes_model("tests.worker.train.recipes:Gone", DataDependent().eval(), torch.ones(3, 4))
    served = torchserve(directory, ready=False)
    assert "module 'tests.worker.train.recipes' has no 'Gone'" in served.rest()
    assert served.process.returncode == 2


def test_a_java_that_cannot_run_says_why(torchserve, affine, monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1k")
    said = torchserve(affine, ready=False).rest()
    assert "Too small maximum heap" in said
    assert "error: TorchServe ended with exit code 1 before it had loaded the model" in said


def test_an_archive_has_links_to_the_model_and_leaves_other_directories_alone(affine, tmp_path, monkeypatch):
    """torch-model-archiver empties the directory of the model's name among the temporary ones."""
    others = tmp_path / "others"
    (others / "affine").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(others))
    place = tmp_path / "place"
    place.mkdir()
    made = archive(affine, ["model.json", "program.pt2"], "affine", "ab" * 32, place)
    manifest = json.loads((made.directory / "MAR-INF" / "MANIFEST.json").read_text())
    assert (manifest["model"]["modelVersion"], manifest["model"]["handler"]) == ("ab" * 32, "handler.py")
    assert (made.directory / "program.pt2").readlink() == (affine / "program.pt2").resolve()
    assert (others / "affine").is_dir()
