"""Ranks that are threads, and the front that they come to."""

from __future__ import annotations

import socket
import threading
from queue import SimpleQueue

from muster_worker.serve.group.front import Front
from muster_worker.serve.group.layout import GroupConfig, Layout
from muster_worker.serve.group.link import Link
from muster_worker.serve.group.wire import Frame
from tests.worker.serve.pods import until

SHA256 = "ab" * 32
LIMIT = 10.0


class FakeRank:
    """Doubles what it is given, or does what `does` says: "fail", "fail once", "fail and end", "end" or "hang"."""

    def __init__(self, front, rank, *, does="double", sha256=SHA256, loads=True):
        self.sizes, self.told, self.ended = [], SimpleQueue(), threading.Event()
        self.kinds = []
        self._does = does
        with socket.create_server(("127.0.0.1", 0)) as listening:
            connection = socket.create_connection(listening.getsockname())
            front.receive(listening.accept()[0])
        self.link = Link(connection, self._hear, self.ended.set)
        self.link.start()
        words = {"group": "numbers", "processes": front.layout.processes, "rank": rank}
        self.link.send(Frame("join", words | {"death": None, "meeting": None}))
        if loads:
            self.link.send(Frame("loaded", {"sha256": sha256, "seconds": 0.001}))

    def _hear(self, frame):
        if frame.kind not in ("compute", "prefill", "step", "explain"):
            self.told.put(frame)
            return
        self.kinds.append(frame.kind)
        self.sizes.append(len(frame.tensors[-1]))
        task = {"task": frame.words["task"]}
        match self._does:
            case "double":
                self.link.send(Frame("answer", task, [tensor * 2 for tensor in frame.tensors]))
            case "fail" | "fail once":
                self._does = self._does.replace("fail once", "hang")
                self.link.send(Frame("answer", task | {"error": "the model failed: minus one"}))
            case "fail and end":
                self.link.send(Frame("answer", task | {"error": "the model failed: minus one", "ends": True}))
            case "end":
                self.link.close()


def gathering():
    """Makes a front of that many shards and the ranks that have come to it, each doing as it is told."""
    everybody = []

    def gather(*does, shards=None, layout=None, expects=SHA256):
        front = Front(GroupConfig("numbers", layout or Layout(data=shards or len(does))), listening=None)
        ranks = [FakeRank(front, rank, does=one) for rank, one in enumerate(does)]
        everybody.extend(ranks)
        until(lambda: len(front.absent) == front.layout.processes - len(does))
        if front.able:
            front.assemble(expects, whole=False)
        return front, ranks

    yield gather
    for rank in everybody:
        rank.link.close()
        assert rank.ended.wait(LIMIT)
