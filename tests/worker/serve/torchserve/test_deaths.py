"""TorchServe and its workers die: others take their place, and nothing is left of them."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from muster_worker.serve.torchserve import engine
from muster_worker.serve.torchserve.archive import archive
from muster_worker.serve.torchserve.model import TRIES
from muster_worker.train.model_directory import load_model, summary
from tests.worker.serve.pods import affine as sums
from tests.worker.serve.pods import ask, infer, until
from tests.worker.serve.served import LIMIT
from tests.worker.serve.sleeping import Mortal
from tests.worker.serve.torchserve.served import below, java, runs

POINTS = np.arange(4, dtype=np.float32).reshape(1, 4)
NOBODY = (503, {"error": "no worker of TorchServe has loaded the model"})


def answers(served):
    status, found = infer(served.port, POINTS)
    return status == 200 and np.allclose(found, sums(POINTS))


@pytest.fixture(scope="module")
def server(torchserve_for_module, affine):
    return torchserve_for_module(affine)


@pytest.fixture
def served(server):
    """It answers, whatever an earlier test has done to it."""
    until(lambda: answers(server))
    return server


def test_a_worker_that_dies_is_waited_for(served):
    first, (worker,) = served.java, served.workers
    served.signal(signal.SIGKILL, worker)
    until(lambda: served.readiness == NOBODY)
    assert answers(served), "asked while there was nobody"
    assert served.readiness[0] == 200
    assert served.java == first
    assert worker not in served.workers


def test_what_a_worker_was_computing_when_it_died_is_computed_by_the_next(served):
    (worker,) = served.workers
    served.signal(signal.SIGSTOP, worker)
    batches = served.batches()
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(answers, served)
        until(lambda: served.batches() > batches)
        served.signal(signal.SIGKILL, worker)
        assert asked.result()


def test_torchserve_that_dies_is_followed_by_another(served):
    first, (worker,) = served.java, served.workers
    served.signal(signal.SIGSTOP, worker)
    batches = served.batches()
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(infer, served.port, POINTS)
        until(lambda: served.batches() > batches)
        served.signal(signal.SIGKILL, first)
        assert asked.result() == (503, "TorchServe has ended, another is started: try again in a second")
    until(lambda: not runs(first) and not runs(worker))
    until(lambda: answers(served))
    _, state = ask(served.port, "GET", "/state")
    assert (state["death"]["count"], state["death"]["exitCode"]) == (1, 137)
    assert 0 < state["death"]["seconds"] < LIMIT


@pytest.mark.parametrize("which", ["the server", "the one that keeps it up"])
def test_nothing_outlives_the_process_that_started_it(served, which):
    """Nor does a worker that hangs, which does not see that its connection is closed."""
    before = below(served.process.pid)
    server, *_ = before
    served.signal(signal.SIGSTOP, *served.workers)
    served.signal(signal.SIGKILL, server if which == "the server" else served.process.pid)
    until(lambda: not any(runs(pid) for pid in before), 5)
    if which == "the server":
        assert answers(served), "asked while there was nobody"


def test_two_workers_compute_at_once_and_one_is_enough(torchserve, affine):
    """And one that has only begun goes when the others go."""
    served = torchserve(affine, "--workers", "2")
    until(lambda: served.counted().get("WorkerLoadTime", (0, 0))[0] == 2)
    first, _ = served.workers
    served.signal(signal.SIGSTOP, first)
    with ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(answers, served) for _ in range(3)]
        until(lambda: sum(one.done() for one in asked) >= 2)
        served.signal(signal.SIGKILL, first)
        assert [one.result() for one in asked] == [True] * 3
    assert served.readiness[0] == 200
    until(lambda: first not in served.workers and len(served.workers) == 2)
    before = below(served.process.pid)
    served.process.kill()
    until(lambda: not any(runs(pid) for pid in before), 5)


def test_what_workers_die_of_is_given_up(torchserve, recipes_model):
    directory = recipes_model("tests.worker.serve.sleeping:Dying", Mortal().eval(), torch.ones(3, 4))
    served = torchserve(directory)
    assert infer(served.port, -POINTS) == (500, f"{TRIES} workers of TorchServe have ended while they computed this")
    assert infer(served.port, POINTS)[0] == 200


def test_a_worker_that_hangs_is_replaced(torchserve, sleeping):
    served = torchserve(sleeping, "--request-seconds", "2")
    (worker,) = served.workers
    assert infer(served.port, -POINTS) == (504, "no answer within 2 s")
    until(lambda: infer(served.port, POINTS)[0] == 200)
    assert worker not in served.workers


def test_torchserve_that_stands_still_is_ended(affine, tmp_path_factory, monkeypatch):
    loaded, place = load_model(affine), tmp_path_factory.mktemp("ts")
    files, sha256 = ("model.json", *loaded.description["files"]), summary(loaded).sha256
    still, lost = engine.Engine(archive(affine, files, "affine", sha256, place), 1, 60, place), []
    still.start(lost.append)
    monkeypatch.setattr(engine, "_SILENT", 1.0)
    first = java(os.getpid())
    before = [first, *below(first)]
    os.kill(first, signal.SIGSTOP)
    until(lambda: lost == [137])
    until(lambda: not any(runs(pid) for pid in before), 5)
