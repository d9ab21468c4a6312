"""Requests computed together: each gets its own answer, whoever else was there."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from muster_worker.serve.batcher import WORTH_A_THREAD, Batcher, Batching
from muster_worker.serve.errors import ComputationError, OverloadedError

SLOW, QUICK = WORTH_A_THREAD * 2, 0.0


class Doubling:
    """A model that remembers the sizes it was asked for. A sample of -1 it cannot compute."""

    def __init__(self):
        self.sizes = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, inputs):
        assert self.go.wait(10)
        (samples,) = inputs
        self.sizes.append(len(samples))
        if (samples == -1).any():
            raise ComputationError("minus one")
        return [samples * 2]


class Watch:
    def __init__(self):
        self.batches = []

    def batch(self, samples, waited):
        assert all(seconds >= 0 for seconds in waited)
        self.batches.append((samples, len(waited)))


def in_loop(work, batching, *, seconds, batched=True, at_once=1):
    """Runs `work(batcher)`; gives the model, what was watched, and what work gave."""
    model, watch = Doubling(), Watch()

    async def main():
        batcher = Batcher(model, batching, watch, batched=batched, seconds=seconds, at_once=at_once)
        try:
            return await work(batcher, model)
        finally:
            batcher.close()

    return model, watch, asyncio.run(main())


def samples(*values):
    return (torch.tensor([[float(value)] for value in values]),)


async def doubles(batcher, *values):
    (output,) = await batcher.submit(samples(*values))
    assert output.tolist() == [[value * 2.0] for value in values]


@pytest.mark.parametrize("seconds", [SLOW, QUICK])
def test_a_full_batch_is_computed_at_once(seconds):
    async def work(batcher, _):
        await asyncio.wait_for(asyncio.gather(*(doubles(batcher, n, n + 0.5) for n in range(8))), 5)

    model, watch, _ = in_loop(work, Batching(max_size=4, max_delay=60), seconds=seconds)
    assert model.sizes == [4, 4, 4, 4]
    assert watch.batches == [(4, 2)] * 4


@pytest.mark.parametrize("seconds", [SLOW, QUICK])
def test_one_that_is_not_full_waits_for_the_delay_and_no_longer(seconds):
    async def work(batcher, _):
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(doubles(batcher, 1), doubles(batcher, 2))
        return asyncio.get_running_loop().time() - begun

    model, _, took = in_loop(work, Batching(max_size=32, max_delay=0.05), seconds=seconds)
    assert model.sizes == [2]
    assert took >= 0.049


@pytest.mark.parametrize("seconds", [SLOW, QUICK])
def test_without_a_delay_those_of_the_same_turn_are_computed_together(seconds):
    async def work(batcher, _):
        await asyncio.gather(*(doubles(batcher, n) for n in range(5)))
        await asyncio.wait_for(doubles(batcher, 5), 5)

    model, _, _ = in_loop(work, Batching(max_size=4), seconds=seconds)
    assert model.sizes == [4, 1, 1]


def test_a_small_model_is_computed_once_all_of_the_turn_were_taken_in():
    async def work(batcher, model):
        answers = [batcher.submit(samples(n)) for n in range(5)]
        taken_in = list(model.sizes)
        await asyncio.gather(*answers)
        return taken_in

    model, _, taken_in = in_loop(work, Batching(), seconds=QUICK)
    assert (taken_in, model.sizes) == ([], [1, 1, 1, 1, 1])


def test_of_a_small_model_one_turn_may_bring_more_than_may_wait():
    async def work(batcher, _):
        await asyncio.gather(*(doubles(batcher, n) for n in range(10)))

    model, _, _ = in_loop(work, Batching(max_waiting=3), seconds=QUICK)
    assert model.sizes == [1] * 10


def test_of_a_small_model_too_many_that_wait_for_a_batch_are_told_at_once():
    async def work(batcher, _):
        waiting = [asyncio.create_task(doubles(batcher, n)) for n in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError, match="3 requests wait already: try again in a second"):
            await batcher.submit(samples(9))
        await asyncio.gather(*waiting)

    model, _, _ = in_loop(work, Batching(max_size=32, max_delay=1.0, max_waiting=3), seconds=QUICK)
    assert model.sizes == [3]


def test_while_one_batch_is_computed_the_next_gathers():
    async def work(batcher, model):
        model.go.clear()
        first = asyncio.create_task(doubles(batcher, 1))
        await asyncio.sleep(0.01)
        assert batcher.computing_for > 0
        others = [asyncio.create_task(doubles(batcher, n)) for n in range(2, 6)]
        await asyncio.sleep(0.01)
        model.go.set()
        await asyncio.gather(first, *others)
        assert batcher.computing_for == 0

    model, _, _ = in_loop(work, Batching(max_size=32), seconds=SLOW)
    assert model.sizes == [1, 4]


def test_as_many_batches_as_may_be_are_computed_at_the_same_time():
    async def work(batcher, model):
        model.go.clear()
        asked = []
        for n in range(5):
            asked.append(asyncio.create_task(doubles(batcher, n)))
            await asyncio.sleep(0.002)  # those of one turn would be together
        computing = batcher.computing_for
        model.go.set()
        await asyncio.gather(*asked)
        return computing, batcher.computing_for

    model, watch, (during, after) = in_loop(work, Batching(max_size=8), seconds=SLOW, at_once=2)
    assert (during > 0, after) == (True, 0)
    assert watch.batches == [(1, 1), (1, 1), (3, 3)]
    assert sum(model.sizes) == 5


def test_a_sample_that_cannot_be_computed_fails_alone():
    async def work(batcher, _):
        return await asyncio.gather(
            doubles(batcher, 1), batcher.submit(samples(-1)), doubles(batcher, 3), return_exceptions=True
        )

    model, _, (first, second, third) = in_loop(work, Batching(max_size=3, max_delay=60), seconds=SLOW)
    assert (first, third) == (None, None)
    assert isinstance(second, ComputationError)
    assert model.sizes == [3, 1, 1, 1]


def test_more_samples_than_a_batch_are_computed_in_pieces():
    async def work(batcher, _):
        await doubles(batcher, *range(10))

    model, _, _ = in_loop(work, Batching(max_size=4), seconds=SLOW)
    assert model.sizes == [4, 4, 2]


SMALL = WORTH_A_THREAD / 10
"""Seconds of a sample that is computed where it is asked for; ten of them are not."""


def test_of_a_small_model_too_the_pieces_of_a_large_request_leave_room_for_others():
    async def work(batcher, model):
        model.go.clear()  # whoever computed here would not come back
        large = asyncio.create_task(doubles(batcher, *range(5000)))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(doubles(batcher, n)) for n in range(5)]
        await asyncio.sleep(0.01)
        model.go.set()
        await asyncio.gather(*others)
        assert not large.done()
        await large

    model, watch, _ = in_loop(work, Batching(max_size=2), seconds=SMALL)
    assert (model.sizes[:4], sum(model.sizes)) == ([2, 2, 2, 1], 5005)
    assert watch.batches == [(5000, 1), (2, 2), (2, 2), (1, 1)]


@pytest.mark.parametrize("seconds", [SLOW, SMALL])
def test_large_requests_take_turns_and_are_computed_in_time(seconds):
    async def work(batcher, _):
        await asyncio.gather(*(doubles(batcher, *range(count)) for count in (2500, 3, 40, 1)))

    model, watch, _ = in_loop(work, Batching(), seconds=seconds)
    assert sum(model.sizes) == 2544
    assert sorted(watch.batches) == [(1, 1), (3, 1), (40, 1), (2500, 1)]


def test_the_rest_of_a_large_request_is_not_computed_once_nobody_waits():
    async def work(batcher, _):
        large = asyncio.create_task(doubles(batcher, *range(1_000_000)))
        await asyncio.sleep(0.01)
        large.cancel()
        await asyncio.sleep(0)
        await asyncio.wait_for(doubles(batcher, 1), 5)
        assert batcher.computing_for == 0

    model, _, _ = in_loop(work, Batching(), seconds=SMALL)
    assert len(model.sizes) < 100_000


def test_one_piece_that_cannot_be_computed_fails_its_request_alone():
    async def work(batcher, _):
        return await asyncio.gather(
            batcher.submit(samples(*range(100), -1, *range(100))), doubles(batcher, 1), return_exceptions=True
        )

    _, _, (large, other) = in_loop(work, Batching(max_size=4), seconds=SMALL)
    assert isinstance(large, ComputationError)
    assert other is None


def test_what_is_as_quick_as_the_hop_to_a_thread_is_computed_where_it_is_asked_for():
    async def work(batcher, model):
        answers = [batcher.submit(samples(*range(9))) for _ in range(2)]
        await asyncio.sleep(0)
        assert model.sizes == [4, 4, 4, 4, 1, 1]
        await asyncio.gather(*answers)

    in_loop(work, Batching(max_size=4), seconds=SMALL)


class Odd:
    """Gives its outputs in one row, of samples of zero none, and more of ones; of two it ends the thread."""

    def __call__(self, inputs):
        (samples,) = inputs
        if (samples == 2).any():
            raise SystemExit
        return [samples.repeat_interleave(samples.ravel().long(), 0)]


def test_outputs_that_are_not_as_many_as_the_samples_end_nobody_but_whose_they_are():
    async def main():
        batcher = Batcher(Odd(), Batching(max_size=3, max_delay=60), Watch(), batched=True, seconds=SLOW)
        asked = [batcher.submit(samples(number)) for number in (3.0, 1.0, 0.0)]
        found = [[len(output) for output in outputs] for outputs in await asyncio.wait_for(asyncio.gather(*asked), 5)]
        assert found == [[3], [1], [0]]
        with pytest.raises(ComputationError, match="the model failed: SystemExit"):
            await asyncio.wait_for(batcher.submit(samples(2, 2, 2)), 5)
        (output,) = await asyncio.wait_for(batcher.submit(samples(1, 1, 1)), 5)
        assert output.tolist() == [[1], [1], [1]]
        batcher.close()

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [SLOW, QUICK])
def test_pieces_that_cannot_be_joined_fail_their_request(seconds):
    async def main():
        batcher = Batcher(lambda inputs: [inputs[0].sum()], Batching(), Watch(), batched=True, seconds=seconds)
        with pytest.raises(ComputationError, match="the model failed: RuntimeError: zero-dimensional tensor"):
            await asyncio.wait_for(batcher.submit(samples(1, 2)), 5)
        (output,) = await asyncio.wait_for(batcher.submit(samples(3)), 5)
        assert output == 3
        batcher.close()

    asyncio.run(main())


def test_without_a_batch_dimension_each_is_computed_alone_and_whole():
    async def work(batcher, _):
        await asyncio.gather(doubles(batcher, 1, 2, 3), doubles(batcher, 4, 5, 6))

    model, _, _ = in_loop(work, Batching(max_size=4, max_delay=60), seconds=SLOW, batched=False)
    assert model.sizes == [3, 3]


def test_samples_of_different_shapes_are_not_mixed():
    async def work(batcher, _):
        wide = batcher.submit((torch.ones(1, 2),))
        (output,), _ = await asyncio.gather(wide, doubles(batcher, 7))
        assert output.tolist() == [[2.0, 2.0]]

    model, _, _ = in_loop(work, Batching(max_size=2, max_delay=0.05), seconds=SLOW)
    assert model.sizes == [1, 1]


THREE = pytest.mark.parametrize("most", [{"max_waiting": 3}, {"max_waiting_bytes": 9}], ids=str)


@THREE
def test_when_too_many_wait_the_next_is_told_at_once_and_the_others_are_answered(most):
    async def work(batcher, model):
        model.go.clear()
        waiting = [asyncio.create_task(doubles(batcher, n)) for n in range(4)]
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError, match="3 requests wait already: try again in a second"):
            await batcher.submit(samples(9))
        model.go.set()
        await asyncio.gather(*waiting)
        await doubles(batcher, 9)

    in_loop(work, Batching(**most), seconds=SLOW)


@THREE
def test_those_whose_clients_have_gone_keep_nobody_from_waiting(most):
    async def work(batcher, model):
        model.go.clear()
        first, patient, *gone = (asyncio.create_task(doubles(batcher, n)) for n in range(4))
        await asyncio.sleep(0.01)
        for one in gone:
            one.cancel()
        await asyncio.sleep(0)
        last = asyncio.create_task(doubles(batcher, 9))
        await asyncio.sleep(0.01)
        model.go.set()
        await asyncio.gather(first, patient, last)

    in_loop(work, Batching(**most), seconds=SLOW)


def test_one_whose_client_has_gone_is_not_computed():
    async def work(batcher, model):
        model.go.clear()
        first = asyncio.create_task(doubles(batcher, 0))
        await asyncio.sleep(0.01)
        gone, last = (asyncio.create_task(doubles(batcher, n)) for n in (1, 2))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0)
        model.go.set()
        await asyncio.gather(first, last)

    model, _, _ = in_loop(work, Batching(max_size=8), seconds=SLOW)
    assert model.sizes == [1, 1]


@pytest.mark.parametrize("seconds", [SLOW, QUICK])
def test_many_at_random_times_all_get_their_own(seconds):
    async def one(batcher, number):
        await asyncio.sleep((number * 7919 % 100) / 5000)
        await doubles(batcher, *(number + k for k in range(1 + number % 5)))

    async def work(batcher, _):
        await asyncio.gather(*(one(batcher, number) for number in range(300)))

    model, watch, _ = in_loop(work, Batching(max_size=8, max_delay=0.002), seconds=seconds)
    assert max(model.sizes) <= 8
    assert sum(model.sizes) == sum(1 + number % 5 for number in range(300))
    assert sum(requests for _, requests in watch.batches) == 300
