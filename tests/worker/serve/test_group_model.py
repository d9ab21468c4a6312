"""How a batch is divided among shards, and what becomes of it when one goes; the ranks here are threads."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
import torch

from muster_worker.serve.errors import TRIES, ComputationError, NotReadyError, TimedOutError
from muster_worker.serve.group import shard
from muster_worker.serve.group.layout import Layout
from muster_worker.serve.group.model import GroupModel
from muster_worker.serve.group.shard import Task
from muster_worker.serve.model import Signature
from muster_worker.serve.tensors import TensorSpec
from tests.worker.serve.fake_ranks import LIMIT, SHA256, FakeRank, gathering
from tests.worker.serve.pods import until

BATCHED = Signature(*((TensorSpec(name, "FP32", (-1, 2)),) for name in ("points", "output")))
ALONE = Signature(*((TensorSpec(name, "FP32", (4, 2)),) for name in ("points", "output")))


@pytest.fixture
def group():
    yield from gathering()


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


def test_an_explanation_of_many_samples_has_all_its_targets(group):
    front, _ = group("double")
    targets = torch.arange(300_000)
    points, found = model_of(front).explain(samples(300_000), targets, lambda: True)
    assert torch.equal(points, samples(300_000)[0] * 2)
    assert torch.equal(found, targets * 2)


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


@pytest.mark.parametrize(
    ("layout", "does"),
    [
        (Layout(tensor=2), ["fail", "fail"]),
        (Layout(tensor=2, pipeline=2), ["fail"] * 4),
        (Layout(tensor=2, pipeline=2), ["hang", "hang", "fail", "fail"]),
    ],
    ids=str,
)
def test_ranks_that_fail_alike_go_on(group, monkeypatch, layout, does):
    monkeypatch.setattr(shard, "ALIKE", 0.1)
    front, ranks = group(*does, layout=layout)
    for number in range(3):
        with pytest.raises(ComputationError, match="the model failed: minus one"):
            model_of(front).compute(samples(1))
        for rank, what in zip(ranks, does, strict=True):
            if what == "fail":
                assert next_told(rank, "go_on").words == {"task": number}
    time.sleep(0.2)
    front._look()
    assert front.absent == []
    assert front.last_death() is None


def next_told(rank, kind):
    return next(frame for frame in iter(lambda: rank.told.get(timeout=LIMIT), None) if frame.kind == kind)


@pytest.mark.parametrize(
    ("layout", "does"),
    [
        (Layout(tensor=2), ["fail once", "hang"]),
        (Layout(tensor=2, pipeline=2), ["fail once", "fail once", "hang", "hang"]),
        (Layout(tensor=2, pipeline=2), ["hang", "hang", "hang", "fail once"]),
    ],
    ids=str,
)
def test_a_shard_of_which_not_all_fail_that_should_is_ended_and_nobody_has_died(group, monkeypatch, layout, does):
    monkeypatch.setattr(shard, "ALIKE", 0.1)
    front, ranks = group(*does, layout=layout)
    with pytest.raises(ComputationError, match="the model failed: minus one"):
        model_of(front).compute(samples(1))
    other = Task(samples(1))
    front.shards[0].begin(other)
    time.sleep(0.2)
    front._look()
    for rank in ranks:
        assert rank.ended.wait(LIMIT)
    assert (other.lost, other.died, front.last_death()) == (True, False, None)
    assert len(front.absent) == len(does)


def test_a_rank_that_fails_and_ends_has_not_died_and_what_it_had_is_computed_by_another(group):
    front, (ending, _) = group("fail and end", "double")
    other = Task(samples(1))
    front.shards[0].begin(other)
    assert ending.ended.wait(LIMIT)
    assert (other.error, front.last_death()) == ("the model failed: minus one", None)
    (output,) = model_of(front).compute(samples(2))
    assert torch.equal(output, samples(2)[0] * 2)


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


def test_a_rank_that_was_there_before_its_leader_knew_its_model_is_refused_too(group):
    front, (other,) = group("double", shards=2, expects=None)
    alike = FakeRank(front, 1, sha256="cd" * 32)
    until(lambda: front.missing is None)
    front.assemble("cd" * 32, whole=False)
    assert front.absent == [0]
    frames = iter(lambda: other.told.get(timeout=LIMIT), None)
    refused = next(frame for frame in frames if frame.kind == "refused")
    assert refused.words["error"].startswith("spec.model.sha256: found abab")
    assert other.ended.wait(LIMIT)
    with contextlib.closing(alike.link):
        model_of(front).compute(samples(1))
    assert (other.sizes, alike.sizes) == ([], [1])


def test_of_two_processes_of_one_rank_the_newer_counts(group):
    front, (older,) = group("double")
    newer = FakeRank(front, 0)
    assert older.ended.wait(LIMIT)
    until(lambda: front.missing is None)
    model_of(front).compute(samples(1))
    assert (older.sizes, newer.sizes) == ([], [1])
    with contextlib.closing(newer.link):
        assert front.last_death()["count"] == 1
