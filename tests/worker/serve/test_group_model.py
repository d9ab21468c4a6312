"""How a batch is divided among shards, and what becomes of it when one goes; the ranks here are threads."""

from __future__ import annotations

import contextlib
import socket
import threading
from queue import SimpleQueue

import pytest
import torch

from muster_worker.serve.errors import ComputationError, NotReadyError, TimedOutError
from muster_worker.serve.group.front import Front
from muster_worker.serve.group.layout import GroupConfig, Layout
from muster_worker.serve.group.link import Link
from muster_worker.serve.group.model import TRIES, GroupModel
from muster_worker.serve.group.wire import Frame
from muster_worker.serve.model import Signature
from muster_worker.serve.tensors import TensorSpec
from tests.worker.serve.pods import until

BATCHED = Signature(*((TensorSpec(name, "FP32", (-1, 2)),) for name in ("points", "output")))
ALONE = Signature(*((TensorSpec(name, "FP32", (4, 2)),) for name in ("points", "output")))
SHA256 = "ab" * 32
LIMIT = 10.0


class FakeRank:
    """Doubles what it is given, or does what `does` says: "fail", "end" or "hang"."""

    def __init__(self, front, rank, *, does="double", sha256=SHA256, loads=True):
        self.sizes, self.told, self.ended = [], SimpleQueue(), threading.Event()
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
        if frame.kind != "compute":
            self.told.put(frame)
            return
        self.sizes.append(len(frame.tensors[0]))
        task = {"task": frame.words["task"]}
        match self._does:
            case "double":
                self.link.send(Frame("answer", task, [tensor * 2 for tensor in frame.tensors]))
            case "fail":
                self.link.send(Frame("answer", task | {"error": "the model failed: minus one"}))
            case "end":
                self.link.close()


@pytest.fixture
def group():
    """A front of that many shards and the ranks that have come to it, each doing as it is told."""
    everybody = []

    def gather(*does, shards=None, expects=SHA256):
        front = Front(GroupConfig("numbers", Layout(data=shards or len(does))), listening=None)
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


def model_of(front, signature=BATCHED, limit=LIMIT):
    return GroupModel(signature, SHA256, front, limit)


def samples(count):
    return [torch.arange(count * 2, dtype=torch.float32).reshape(count, 2)]


def test_each_shard_computes_its_part_and_the_order_stays(group):
    front, ranks = group("double", "double", "double")
    (output,) = model_of(front).compute(samples(7))
    assert torch.equal(output, samples(7)[0] * 2)
    assert sorted(size for rank in ranks for size in rank.sizes) == [2, 2, 3]


def test_when_there_are_fewer_samples_than_shards_they_take_turns(group):
    front, ranks = group("double", "double")
    model = model_of(front)
    for _ in range(4):
        model.compute(samples(1))
    assert [rank.sizes for rank in ranks] == [[1, 1], [1, 1]]


def test_what_is_no_batch_is_computed_whole_by_one(group):
    front, ranks = group("double", "double")
    (output,) = model_of(front, ALONE).compute(samples(4))
    assert torch.equal(output, samples(4)[0] * 2)
    assert sorted(len(rank.sizes) for rank in ranks) == [0, 1]


def test_what_a_shard_was_computing_when_it_ended_is_computed_by_another(group):
    front, (ending, other) = group("end", "double")
    (output,) = model_of(front).compute(samples(4))
    assert torch.equal(output, samples(4)[0] * 2)
    assert (ending.sizes, other.sizes) == ([2], [2, 2])
    assert front.missing == "rank 0 (pod 0) is not there"
    assert front.last_death()["rank"] == 0


def test_what_many_ended_of_is_given_up(group):
    front, _ = group(*["end"] * TRIES)
    with pytest.raises(ComputationError, match="3 processes have ended while they computed this"):
        model_of(front).compute(samples(1))


def test_what_the_model_says_is_told(group):
    front, _ = group("fail")
    with pytest.raises(ComputationError, match="the model failed: minus one"):
        model_of(front).compute(samples(1))


def test_a_shard_that_hangs_is_ended(group):
    front, (hanging,) = group("hang")
    with pytest.raises(TimedOutError, match=r"no answer within 0\.3 s"):
        model_of(front, limit=0.3).compute(samples(1))
    assert hanging.ended.wait(LIMIT)
    assert front.absent == [0]


def test_when_nobody_comes_it_is_told_who_is_missing(group):
    front, _ = group(shards=5)
    with pytest.raises(NotReadyError, match=r"within 0\.1 s: rank 0 \(pod 0\) is not there, .*, and 2 more"):
        model_of(front, limit=0.1).compute(samples(1))


def test_whoever_comes_meanwhile_computes(group):
    front, _ = group(shards=1)
    outputs = []
    asking = threading.Thread(target=lambda: outputs.extend(model_of(front).compute(samples(2))))
    asking.start()
    rank = FakeRank(front, 0)
    asking.join(LIMIT)
    rank.link.close()
    assert torch.equal(outputs[0], samples(2)[0] * 2)


def test_a_rank_that_has_another_model_is_refused(group):
    front, _ = group("double", shards=2)
    other = FakeRank(front, 1, sha256="cd" * 32)
    frames = iter(lambda: other.told.get(timeout=LIMIT), None)
    refused = next(frame for frame in frames if frame.kind == "refused")
    assert refused.words["error"].startswith("spec.model.sha256: found cdcd")
    assert other.ended.wait(LIMIT)
    assert front.absent == [1]


def test_of_two_processes_of_one_rank_the_newer_counts(group):
    front, (older,) = group("double")
    newer = FakeRank(front, 0)
    assert older.ended.wait(LIMIT)
    until(lambda: front.missing is None)
    model_of(front).compute(samples(1))
    assert (older.sizes, newer.sizes) == ([], [1])
    with contextlib.closing(newer.link):
        assert front.last_death()["count"] == 1
