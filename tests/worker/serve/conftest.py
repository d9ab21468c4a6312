from __future__ import annotations

import pytest
import torch
from torch import nn

from muster_worker.serve import fetch
from muster_worker.train.export import Trained, export_model
from tests.worker.serve.pods import Pods
from tests.worker.serve.served import Served
from tests.worker.serve.sleeping import Sleeper
from tests.worker.serve.web import web_server
from tests.worker.serve.writing import publish

ORIGIN = {"recipe": "module:Class", "config": {}, "step": 7, "epoch": 1}


class Affine(nn.Module):
    """Of four numbers two: their sum, and their sum plus one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        with torch.no_grad():
            self.linear.weight.fill_(1.0)
            self.linear.bias.copy_(torch.tensor([0.0, 1.0]))

    def forward(self, points):
        return self.linear(points)


class SumAndBoth(nn.Module):
    """Two inputs, two outputs of different types."""

    def forward(self, first, second):
        return {"sum": first + second, "larger": first > second}


@pytest.fixture(scope="module")
def on_this_machine():
    """All pods of a group are here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        yield


@pytest.fixture(scope="session")
def affine(tmp_path_factory):
    """The directory of a model with the input points (-1, 4) and the output output (-1, 2)."""
    directory = tmp_path_factory.mktemp("models") / "affine"
    export_model(directory, Trained(Affine(), (torch.randn(3, 4),), {}, ORIGIN), "token")
    return directory


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    """Two inputs, first and second, of 64-bit integers (-1, 2); outputs sum and larger."""
    directory = tmp_path_factory.mktemp("models") / "two"
    examples = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[0, 5], [3, 1]])
    export_model(directory, Trained(SumAndBoth(), examples, {}, ORIGIN), "token")
    return directory


@pytest.fixture
def sleeping(tmp_path):
    """A model with the input points (-1, 4) that does not come back from negative ones."""
    origin = ORIGIN | {"recipe": "tests.worker.serve.sleeping:Sleeping"}
    export_model(tmp_path / "sleeping", Trained(Sleeper(), (torch.ones(3, 4),), {}, origin), "token")
    return tmp_path / "sleeping"


@pytest.fixture
def failing(tmp_path):
    """A model with the input points (-1, 4) that computes nothing any more after negative ones, on any device."""
    origin = ORIGIN | {"recipe": "tests.worker.serve.sleeping:OnFailingDevice"}
    export_model(tmp_path / "failing", Trained(Sleeper(), (torch.ones(3, 4),), {}, origin), "token")
    return tmp_path / "failing"


@pytest.fixture
def web(affine, tmp_path, monkeypatch):
    """Where the model `affine` can be fetched from; what breaks off is gone on with soon."""
    monkeypatch.setattr(fetch, "_FIRST_PAUSE", 0.01)
    with web_server(affine, tmp_path / "web") as server:
        yield server


@pytest.fixture
def loading(tmp_path):
    """A model that is never loaded."""
    origin = ORIGIN | {"recipe": "tests.worker.serve.sleeping:Loading"}
    export_model(tmp_path / "loading", Trained(Sleeper(), (torch.ones(3, 4),), {}, origin), "token")
    return tmp_path / "loading"


def starting(kind):
    """Starts servers of this kind; whatever runs is killed at the end."""
    started = []

    def start(directory, *words, ready=True, **more):
        served = kind(directory, *words, **more)
        started.append(served)
        if ready:
            served.until("serving ")
        return served

    yield start
    for served in started:
        served.stop()


@pytest.fixture
def serve():
    """`Served`, waited for until it serves; whatever runs is killed at the end."""
    yield from starting(Served)


@pytest.fixture(scope="module")
def serve_for_module():
    """The same, for all tests of a module."""
    yield from starting(Served)


@pytest.fixture(scope="module")
def chargpt(serve_for_module, tmp_path_factory):
    """A server of a model that writes."""
    directory = tmp_path_factory.mktemp("models") / "chargpt"
    publish(directory)
    return serve_for_module(directory)


@pytest.fixture
def group():
    """`Pods`, waited for until the group is whole; whatever runs is killed at the end."""
    started = []

    def start(directory, *words, count=1, ready=True):
        pods = Pods(directory, *words, count=count)
        started.append(pods)
        return pods.until_whole() if ready else pods

    yield start
    for pods in started:
        pods.stop()
