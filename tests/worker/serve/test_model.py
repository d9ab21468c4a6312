"""A model directory becomes something that computes, or an error that says what is wrong with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from threadpoolctl import threadpool_info

from muster_worker.serve.errors import ComputationError
from muster_worker.serve.model import ServedModel
from muster_worker.serve.threads import set_threads
from muster_worker.train.errors import ConfigurationError, StorageError
from muster_worker.train.export import Trained, export_model
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
