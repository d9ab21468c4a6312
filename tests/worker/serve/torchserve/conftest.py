"""These run in an image that has TorchServe: `make test-torchserve`."""

from __future__ import annotations

import pytest

from muster_worker.train.export import Trained, export_model
from tests.worker.serve.conftest import ORIGIN, starting
from tests.worker.serve.torchserve.served import TorchServed


@pytest.fixture
def torchserve():
    """`TorchServed`, waited for until it serves; whatever runs is killed at the end, and is gone then."""
    yield from starting(TorchServed)


@pytest.fixture(scope="module")
def torchserve_for_module():
    """The same, for all tests of a module."""
    yield from starting(TorchServed)


@pytest.fixture(scope="session")
def recipes_model(tmp_path_factory):
    """Exports a model that only a recipe has, and gives its directory."""

    def export(recipe, model, *examples):
        directory = tmp_path_factory.mktemp("recipes") / "model"
        export_model(directory, Trained(model, examples, {}, ORIGIN | {"recipe": recipe}), "token")
        return directory

    return export
