"""These run in an image that has TorchServe: `make test-torchserve`."""

from __future__ import annotations

import pytest

from muster_worker.train.export import Trained, export_model
from tests.worker.serve.conftest import ORIGIN
from tests.worker.serve.torchserve.served import TorchServed


def _torchserve():
    started = []

    def start(directory, *words, ready=True):
        served = TorchServed(directory, *words)
        started.append(served)
        if ready:
            served.until("serving ")
        return served

    yield start
    for served in started:
        served.stop()


@pytest.fixture
def torchserve():
    """`TorchServed`, waited for until it serves; whatever runs is killed at the end, and is gone then."""
    yield from _torchserve()


@pytest.fixture(scope="module")
def torchserve_for_module():
    """The same, for all tests of a module."""
    yield from _torchserve()


@pytest.fixture(scope="session")
def recipes_model(tmp_path_factory):
    """Exports a model that only a recipe has, and gives its directory."""

    def export(recipe, model, *examples):
        directory = tmp_path_factory.mktemp("recipes") / "model"
        export_model(directory, Trained(model, examples, {}, ORIGIN | {"recipe": recipe}), "token")
        return directory

    return export
