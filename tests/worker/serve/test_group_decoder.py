"""Steps of texts by the ranks of a shard, and what becomes of them when one goes; the ranks here are threads."""

from __future__ import annotations

import pytest
import torch

from muster_worker.serve.errors import ComputationError
from muster_worker.serve.generate.decoder import LostError
from muster_worker.serve.group.decoder import ShardDecoder
from tests.worker.serve.fake_ranks import LIMIT, FakeRank, gathering
from tests.worker.serve.pods import until


@pytest.fixture
def group():
    yield from gathering()


def decoder_of(front, limit=LIMIT):
    return ShardDecoder(front, front.shards[0], 4, limit)


def step(decoder, *slots):
    return decoder.step(torch.tensor(slots), torch.tensor([7] * len(slots)), torch.tensor([1] * len(slots)))


def test_only_what_is_computed_is_sent_and_the_first_tensor_comes_back(group):
    front, (rank,) = group("double")
    decoder = decoder_of(front)
    assert decoder.able
    decoder.prefill(2, torch.tensor([5, 6, 7]))
    decoder.prefill(0, torch.tensor([5]))
    assert step(decoder, 0, 2).tolist() == [0, 4]
    assert (rank.kinds, rank.sizes) == (["prefill", "prefill", "step"], [3, 1, 2])


def test_what_the_model_says_is_told(group):
    front, _ = group("fail")
    with pytest.raises(ComputationError, match="the model failed: minus one"):
        decoder_of(front).prefill(0, torch.tensor([5]))


def test_a_rank_that_ends_loses_what_it_had(group):
    front, _ = group("end")
    decoder = decoder_of(front)
    with pytest.raises(LostError):
        decoder.prefill(0, torch.tensor([5]))
    assert not decoder.able


def test_what_was_filled_before_a_rank_was_replaced_is_lost(group):
    front, (before,) = group("double")
    decoder = decoder_of(front)
    decoder.prefill(0, torch.tensor([5]))
    after = FakeRank(front, 0)
    until(lambda: before.ended.is_set() and decoder.able)
    with pytest.raises(LostError):
        step(decoder, 0)
    assert (before.kinds, after.kinds) == (["prefill"], [])
    decoder.prefill(1, torch.tensor([5]))
    assert step(decoder, 1).tolist() == [2]
    after.link.close()


def test_a_rank_that_hangs_is_ended(group):
    front, (hanging,) = group("hang")
    with pytest.raises(LostError):
        decoder_of(front, limit=0.3).prefill(0, torch.tensor([5]))
    assert hanging.ended.wait(LIMIT)
    assert front.absent == [0]
