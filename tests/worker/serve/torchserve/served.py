"""A server that has TorchServe compute, and the processes that it consists of."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.worker.serve.pods import ask, until
from tests.worker.serve.served import LIMIT, Served


class TorchServed(Served):
    """`muster-worker torchserve DIRECTORY --name affine WORDS…` on free ports."""

    def __init__(self, directory, *words):
        super().__init__(directory, "--name", "affine", *words, command="torchserve")

    @property
    def java(self):
        """The number of TorchServe's own process."""
        return java(self.process.pid)

    @property
    def workers(self):
        """The numbers of its workers, of those that have died and have no successor yet not."""
        return _running(self.process.pid, "model_service_worker.py")

    def signal(self, number, *pids):
        for pid in pids:
            os.kill(pid, number)

    @property
    def readiness(self):
        return ask(self.port, "GET", "/v2/health/ready")

    def counted(self):
        """The samples of /metrics by name: how many there are with other labels, and their sum."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=LIMIT) as answer:
            text = answer.read().decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                count, total = found.get(sample.name, (0, 0))
                found[sample.name] = count + 1, total + sample.value
        return found

    def batches(self):
        """How many it has begun to compute."""
        return self.counted()["muster_serve_batch_samples_count"][1]

    def stop(self):
        """Kills the one that was started, as it comes. Nothing is left of it, whatever a test has done."""
        left = below(self.process.pid)
        super().stop()
        until(lambda: not any(runs(pid) for pid in left))


def below(pid):
    """The numbers of all processes below it, whichever thread has started them."""
    found = [pid]
    for one in found:
        for children in Path("/proc").glob(f"{one}/task/*/children"):
            found += [int(child) for child in _read(children).split()]
    return found[1:]


def java(pid):
    """The number of the TorchServe that runs below it."""
    (found,) = _running(pid, "org.pytorch.serve.ModelServer")
    return found


def _running(pid, words):
    return [one for one in below(pid) if words in _read(Path(f"/proc/{one}/cmdline"))]


def runs(pid):
    """Whether there is such a process that has not ended, whoever is to take note of its end."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] not in ([], ["Z"])


def _read(file):
    """Nothing of a process or a thread that has ended meanwhile."""
    with contextlib.suppress(OSError):
        return file.read_text()
    return ""
