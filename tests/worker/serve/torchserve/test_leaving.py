"""Told to leave, it answers until nobody asks, and takes everything with it."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from muster_worker.serve.server import LINGER
from tests.worker.serve.pods import Load, until
from tests.worker.serve.served import LIMIT
from tests.worker.serve.torchserve.served import below, runs


@pytest.fixture
def scratch(monkeypatch):
    """Where temporary files go; its path is short, for it will have sockets in it."""
    directory = Path(tempfile.mkdtemp())
    monkeypatch.setenv("TMPDIR", str(directory))
    yield directory
    shutil.rmtree(directory)


def test_told_to_leave_it_answers_until_nobody_asks(torchserve, affine, scratch):
    served = torchserve(affine)
    processes = below(served.process.pid)
    with Load(served.port) as load:
        load.until_answered()
        served.process.terminate()
        until(lambda: served.readiness == (503, {"error": "leaving: other replicas answer"}))
        load.until_answered()
    assert load.wrong == []
    assert served.process.wait(LIMIT) == 0
    until(lambda: not any(runs(pid) for pid in processes))
    assert [one.name for one in scratch.iterdir() if one.name.startswith("torchserve-")] == []


def test_ctrl_c_ends_it_at_once(torchserve, affine):
    served = torchserve(affine)
    processes = below(served.process.pid)
    begun = time.monotonic()
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(LIMIT) == 0
    assert time.monotonic() - begun < LINGER
    until(lambda: not any(runs(pid) for pid in processes))


def test_told_to_leave_while_it_loads_it_leaves(torchserve, loading):
    served = torchserve(loading, ready=False)
    until(lambda: served.workers)
    processes = below(served.process.pid)
    served.process.terminate()
    assert served.process.wait(LIMIT) == 0
    until(lambda: not any(runs(pid) for pid in processes))
