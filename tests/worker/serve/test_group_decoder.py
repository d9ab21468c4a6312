"""Steps of texts by the ranks of a shard, and what becomes of them when one goes; the ranks here are threads."""

from __future__ import annotations

import threading

import pytest
import torch

from muster_worker.serve.errors import ComputationError
from muster_worker.serve.generate.decoder import LostError
from muster_worker.serve.generate.parameters import Parameters
from muster_worker.serve.generate.sampling import Draws, Rules
from muster_worker.serve.group.decoder import ShardDecoder
from muster_worker.serve.group.link import Link
from tests.worker.serve.fake_ranks import LIMIT, FakeRank, gathering
from tests.worker.serve.pods import until


@pytest.fixture
def group():
    yield from gathering()


def decoder_of(front, limit=LIMIT):
    return ShardDecoder(front, front.shards[0], 0, 4, limit)


def rules(count):
    return Rules.of([Parameters(temperature=0.5, top_p=0.25)] * count, [Draws(7)] * count)


def prefill(decoder, slot, *tokens):
    return decoder.prefill(slot, torch.tensor(tokens), rules(1))


def step(decoder, *slots):
    given = [torch.tensor(one) for one in (slots, [7] * len(slots), [1] * len(slots))]
    return decoder.step(*given, rules(len(slots)))


def test_a_few_numbers_of_each_text_are_sent_and_two_of_each_come_back(group):
    front, (rank,) = group("double")
    decoder = decoder_of(front)
    assert decoder.able
    prefill(decoder, 2, 5, 6, 7)
    prefill(decoder, 0, 5)
    # The rank has doubled what it was given.
    temperatures, top_k = step(decoder, 0, 2)
    assert (temperatures.tolist(), top_k.tolist()) == ([1.0, 1.0], [0, 0])
    assert (rank.kinds, rank.sizes) == (["prefill", "prefill", "step"], [3, 1, 2])


def test_what_the_model_says_is_told(group):
    front, _ = group("fail")
    with pytest.raises(ComputationError, match="the model failed: minus one"):
        prefill(decoder_of(front), 0, 5)


def test_a_rank_that_ends_loses_what_it_had(group):
    front, _ = group("end")
    decoder = decoder_of(front)
    with pytest.raises(LostError):
        prefill(decoder, 0, 5)
    assert not decoder.able


def test_what_was_filled_before_a_rank_was_replaced_is_lost(group):
    front, (before,) = group("double")
    decoder = decoder_of(front)
    prefill(decoder, 0, 5)
    after = FakeRank(front, 0)
    until(lambda: before.ended.is_set() and decoder.able)
    with pytest.raises(LostError):
        step(decoder, 0)
    assert (before.kinds, after.kinds) == (["prefill"], [])
    prefill(decoder, 1, 5)
    assert len(step(decoder, 1)) == 2
    after.link.close()


def test_a_rank_that_stands_still_has_not_died(group, monkeypatch):
    front, (still, _) = group("hang", "double")
    decoder, link = decoder_of(front), front.shards[0].members[0].link

    def fall_silent():
        until(lambda: still.kinds)
        monkeypatch.setattr(Link, "silent", property(lambda one: one is link))

    threading.Thread(target=fall_silent).start()
    for kinds in (["prefill"], ["prefill"]):  # it falls silent while it computes, and then is not asked any more
        with pytest.raises(LostError) as lost:
            prefill(decoder, 0, 5)
        assert not lost.value.died
        assert still.kinds == kinds


def test_a_rank_that_hangs_is_ended(group):
    front, (hanging,) = group("hang")
    with pytest.raises(LostError) as lost:
        prefill(decoder_of(front, limit=0.3), 0, 5)
    assert lost.value.died
    assert hanging.ended.wait(LIMIT)
    assert front.absent == [0]
