"""A model directory becomes something that computes, or an error that says what is wrong with it."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from threadpoolctl import threadpool_info

from muster_worker.serve.errors import ComputationError
from muster_worker.serve.model import ServedModel
from muster_worker.serve.threads import set_threads
from muster_worker.train.durable import read_json, record_of, write_json
from muster_worker.train.errors import ConfigurationError, StorageError
from muster_worker.train.export import Trained, export_model
from muster_worker.train.program import load_program
from tests.worker.train.recipes import DataDependent

CPU = torch.device("cpu")


def origin(recipe):
    return {"recipe": f"tests.worker.train.recipes:{recipe}", "config": {"epochs": 1}, "step": 7, "epoch": 1}


@pytest.fixture
def unexportable(tmp_path):
    """The directory of a model without a program, made by the recipe Unexportable."""

    def publish(recipe="Unexportable"):
        model = DataDependent().eval()
        export_model(tmp_path / "model", Trained(model, (torch.ones(3, 4),), {}, origin(recipe)), "token")
        return tmp_path / "model", model

    return publish


def test_an_exported_program_needs_no_recipe(affine):
    model = ServedModel.load(affine, CPU)
    assert model.warm_up() > 0
    (output,) = model.compute([torch.tensor([[1.0, 2, 3, 4]])])
    assert output.tolist() == [[10.0, 11.0]]
    assert model.signature.batched
    assert model.sha256.startswith(model.version)


class Evil:
    def __reduce__(self):
        return os.mkdir, (RAN,)


def pickled():
    content = io.BytesIO()
    torch.save((Evil(),), content)
    return content.getvalue()


RAN = "was-run"
RUN = f"__import__('os').mkdir('{RAN}')"
RUN_BY_SYMPY = f"sympify.__globals__['__builtins__']['__import__']{RUN.removeprefix('__import__')}"
LENGTH, INPUT, WEIGHT = re.compile(rb"Symbol\('s\d+', [^)]*\)"), b'"points"', b'"p_linear_weight"'


@pytest.mark.parametrize(
    ("file", "change", "wanted"),
    [
        ("data/sample_inputs/model.pt", lambda _: pickled(), r"without running Python from it: .*GLOBAL \w+\.mkdir"),
        (
            "models/model.json",
            lambda content: LENGTH.sub(
                f"sympify.__globals__['__builtins__']['__import__']{RUN[10:]}".encode(), content
            ),
            r"found in program/models/model\.json expr_str: \"sympify.*, wanted nothing that can be run",
        ),
        (
            "models/model.json",
            lambda content: content.replace(INPUT, f'"points={RUN}"'.encode()),
            ": .points=__import__",
        ),
        ("models/model.json", lambda content: content.replace(WEIGHT, f'"p={RUN}"'.encode()), ": .p=__import__"),
        (
            "models/model.json",
            lambda content: LENGTH.sub(RUN_BY_SYMPY.encode(), content.replace(b'"linear"', b'"metadata"')),
            r"expr_str: \"sympify",
        ),
        ("models/model.json", lambda _: b"[" * 100_000, r"program\.pt2 is no file of torch\.export"),
        ("data/aotinductor/model/model.so", lambda _: b"", r"found program/data/aotinductor/model/model\.so in it"),
        ("data/constants/opaque_obj_0", lambda _: pickle.dumps(Evil()), "found program/data/constants/opaque_obj_0"),
        ("MODELS/model.json", lambda _: b"{}", "found two files of one name in it"),
    ],
    ids=["pickle", "length", "input", "weight", "name", "depth", "library", "object", "twice"],
)
def test_a_program_is_read_without_running_python_from_it(affine, tmp_path, monkeypatch, file, change, wanted):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(affine, "model")
    with zipfile.ZipFile(affine / "program.pt2") as source:
        files = {name: source.read(name) for name in source.namelist()}
    name = f"program/{file}"
    files[name] = change(files.get(name, b""))
    with zipfile.ZipFile("model/program.pt2", "w") as changed:
        for name, content in files.items():
            changed.writestr(name, content)
    description = read_json(affine / "model.json")
    description["files"]["program.pt2"] = record_of(tmp_path / "model" / "program.pt2")
    write_json(tmp_path / "model" / "model.json", description)
    with pytest.raises(StorageError, match=wanted):
        ServedModel.load(tmp_path / "model", CPU)
    assert not (tmp_path / RAN).exists()


@pytest.mark.parametrize("content", [b"no archive", b"PK\5\6" + bytes(18)])
def test_what_is_no_program_is_named(tmp_path, content):
    (tmp_path / "program.pt2").write_bytes(content)
    with pytest.raises(StorageError, match=r"program\.pt2 "):
        load_program(tmp_path / "program.pt2")


def test_who_reads_other_files_reads_them_as_before(affine, monkeypatch):
    for before in (None, "0"):
        if before is not None:
            monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", before)
        load_program(affine / "program.pt2")
        assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before


def test_without_a_program_the_recipe_has_the_model(unexportable):
    directory, source = unexportable()
    model = ServedModel.load(directory, CPU)
    model.warm_up()
    for points in (torch.ones(2, 4), -torch.ones(2, 4)):
        (output,) = model.compute([points])
        torch.testing.assert_close(output, source(points).detach())


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("Line", "the weights in .* are not those of tests.worker.train.recipes:Line in this image"),
        ("Gone", "module 'tests.worker.train.recipes' has no 'Gone'"),
    ],
)
def test_a_recipe_that_has_another_model_is_named(unexportable, recipe, wanted):
    directory, _ = unexportable(recipe)
    with pytest.raises(ConfigurationError, match=wanted):
        ServedModel.load(directory, CPU)


def test_a_directory_without_a_model_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"is no model: model\.json cannot be read"):
        ServedModel.load(tmp_path, CPU)


def test_what_the_model_says_of_an_input_is_told(affine):
    with pytest.raises(ComputationError, match="the model failed: "):
        ServedModel.load(affine, CPU).compute([torch.ones(1, 5)])


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    set_threads(4)
    yield
    set_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(
    ("worth", "environment", "threads"), [(1.0, {}, 1), (0.0, {}, 4), (1.0, {"OMP_NUM_THREADS": "4"}, 4)], ids=str
)
def test_a_small_model_is_computed_by_one_thread(affine, monkeypatch, worth, environment, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("muster_worker.serve.model.WORTH_THREADS", worth)
    ServedModel.load(affine, CPU).warm_up()
    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(torch.get_num_threads).result() == threads
    assert {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} == {threads}
