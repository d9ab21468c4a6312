"""A group whose pods are processes on this machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
import time
from pathlib import Path

import numpy as np

from tests.ports import free_ports
from tests.worker.serve.served import LIMIT, Served


def ask(port, method, path, text=None):
    """Status and answer."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)) as connection:
        connection.request(method, path, text)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def infer(port, inputs, name="points", outputs=()):
    """Status and the numbers of the only output that is asked for, or the error."""
    tensor = {"name": name, "datatype": "FP32", "shape": list(inputs.shape), "data": inputs.ravel().tolist()}
    request = {"inputs": [tensor], "outputs": [{"name": output} for output in outputs]}
    status, answer = ask(port, "POST", "/v2/models/affine/infer", json.dumps(request))
    if status != 200:
        return status, answer["error"]
    (output,) = answer["outputs"]
    return status, np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def affine(points):
    """What the model `affine` computes."""
    total = points.sum(axis=1)
    return np.stack([total, total + 1], axis=1)


def until(condition, limit=LIMIT):
    """Waits for it; gives the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < limit, "it never came to that"
        time.sleep(0.02)
    return time.monotonic() - begun


class Pods:
    """`pods[0]` is the leader's. Their words are the same, but for those that say which of them each is."""

    def __init__(self, directory, *words, count=1):
        (self.group_port,) = free_ports(1)
        self._directory, self._words, self._count = directory, words, count
        self.pods = [self._start(pod) for pod in range(count)]

    def _start(self, pod, *words):
        where = ["--group-port", str(self.group_port), "--pods", str(self._count), "--pod", str(pod)]
        return Served(self._directory, "--name", "affine", *where, "--leader", "127.0.0.1", *self._words, *words)

    @property
    def port(self):
        """Of the front."""
        return self.pods[0].port

    def start_anew(self, pod, *words):
        """Killed before, if it still runs."""
        self.pods[pod].stop()
        self.pods[pod] = self._start(pod, *words)

    def until_whole(self):
        until(self._is_whole)
        return self

    def _is_whole(self):
        for pod in self.pods:
            assert pod.process.poll() is None, f"a pod ended with {pod.process.returncode}:\n{pod.rest()}"
        with contextlib.suppress(OSError):
            return self.is_ready()

    def process(self, name, pod=0):
        """The number of the process that has this name; None while there is none."""
        parent = self.pods[pod].process.pid
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == name:
                    return int(child)
        return None

    def signal(self, number, name, pod=0):
        os.kill(self.process(name, pod), number)

    def state(self, pod=0):
        return ask(self.pods[pod].port, "GET", "/state")[1]

    def is_ready(self, pod=0):
        return ask(self.pods[pod].port, "GET", "/v2/health/ready")[0] == 200

    def stop(self):
        for pod in self.pods:
            pod.stop()


class Load:
    """Two clients that ask without end, and what they were answered that was wrong."""

    def __init__(self, port, model=affine, outputs=()):
        self._port, self._model, self._outputs, self._over = port, model, outputs, threading.Event()
        self.right, self.wrong = 0, []
        self._clients = [threading.Thread(target=self._ask, args=(number,)) for number in range(2)]

    def _ask(self, number):
        points = np.arange(12, dtype=np.float32).reshape(3, 4) + number
        wanted = self._model(points)
        while not self._over.is_set():
            try:
                status, found = infer(self._port, points, outputs=self._outputs)
            except OSError as error:
                status, found = 0, repr(error)
            if status == 200 and np.allclose(found, wanted, rtol=1e-4, atol=1e-6):
                self.right += 1
            else:
                self.wrong.append((status, found))
            time.sleep(0.01)

    def until_answered(self, more=20):
        """Waits for so many more answers."""
        wanted = self.right + more
        until(lambda: self.right >= wanted or self.wrong)

    def __enter__(self):
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for client in self._clients:
            client.join(LIMIT)
