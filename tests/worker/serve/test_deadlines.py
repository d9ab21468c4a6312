"""Requests that are not answered in time, and only those, are told so."""

from __future__ import annotations

import asyncio

import pytest

from muster_worker.serve.deadlines import Deadlines
from muster_worker.serve.errors import TimedOutError

SECONDS = 0.05


async def outcome(answer):
    return await asyncio.wait_for(asyncio.gather(answer, return_exceptions=True), 5)


def test_each_has_its_own_time_from_the_moment_that_it_is_watched():
    async def main():
        loop, deadlines = asyncio.get_running_loop(), Deadlines(SECONDS)
        late = []
        for _ in range(3):
            answer = loop.create_future()
            deadlines.watch(answer)
            late.append((loop.time(), answer))
            await asyncio.sleep(SECONDS / 3)
        for begun, answer in late:
            (error,) = await outcome(answer)
            assert isinstance(error, TimedOutError)
            assert str(error) == "no answer within 0.05 s"
            assert loop.time() - begun >= SECONDS * 0.99

    asyncio.run(main())


def test_what_is_answered_or_given_up_in_time_is_left_alone_and_forgotten():
    async def main():
        loop, deadlines = asyncio.get_running_loop(), Deadlines(SECONDS)
        for _ in range(1000):
            answer = loop.create_future()
            deadlines.watch(answer)
            answer.set_result("in time")
        assert len(deadlines._watched) == 1
        given_up, slow = loop.create_future(), loop.create_future()
        deadlines.watch(given_up)
        deadlines.watch(slow)
        given_up.cancel()
        with pytest.raises(TimedOutError):
            await slow
        assert not deadlines._watched
        again = loop.create_future()
        deadlines.watch(again)
        (error,) = await outcome(again)
        assert isinstance(error, TimedOutError)

    asyncio.run(main())


def test_behind_one_that_takes_long_nothing_is_kept_that_is_answered():
    async def main():
        loop, deadlines = asyncio.get_running_loop(), Deadlines(SECONDS)
        late = [loop.create_future()]
        deadlines.watch(late[0])
        for number in range(1000):
            answer = loop.create_future()
            deadlines.watch(answer)
            if number % 100:
                answer.set_result("in time")
            else:
                late.append(answer)
        assert len(deadlines._watched) <= 2 * len(late)
        for answer in late:
            (error,) = await outcome(answer)
            assert isinstance(error, TimedOutError)

    asyncio.run(main())
