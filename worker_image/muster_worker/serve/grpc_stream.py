"""A stream of requests and answers: each request is answered as soon as it comes, whatever others are under way."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    Answers = AsyncGenerator[Any, None]


_UNDER_WAY = 128
"""Requests of one stream that are answered at the same time; more are not read."""

_UNREAD = 16
"""Answers that may lie there for a client to read them; more are not asked for."""


async def answered(context: Any, answers: Callable[[Any], Answers], stopping: asyncio.Event) -> Answers:
    """All answers to the requests of a stream, as they come. `answers` gives those to one, and raises nothing.

    Ends when the client has said that it asks no more, or the server stops, and what was begun is answered: a client
    may keep a stream open without asking anything. One that asks and asks without reading is not listened to for so
    long, whatever it asks.
    """
    there: asyncio.Queue[Any] = asyncio.Queue()
    unread, under_way = asyncio.Semaphore(_UNREAD), asyncio.Semaphore(_UNDER_WAY)

    async def answer(request: Any) -> None:
        async with contextlib.aclosing(answers(request)) as its:
            async for one in its:
                await unread.acquire()
                there.put_nowait(one)

    async def answer_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            async for request in _requests(context, stopping):
                tasks.create_task(answer(request)).add_done_callback(lambda _: under_way.release())
                await under_way.acquire()

    answering = asyncio.create_task(answer_all())
    answering.add_done_callback(lambda _: there.put_nowait(None))
    try:
        while (one := await there.get()) is not None:
            yield one
            unread.release()
        await answering
    finally:
        answering.cancel()


async def _requests(context: Any, stopping: asyncio.Event) -> Answers:
    stop = asyncio.create_task(stopping.wait())
    try:
        while True:
            reading = asyncio.create_task(context.read())
            try:
                await asyncio.wait([reading, stop], return_when=asyncio.FIRST_COMPLETED)
                if not reading.done() or reading.result() is grpc.aio.EOF:
                    return
                yield reading.result()
            finally:
                reading.cancel()
    finally:
        stop.cancel()
