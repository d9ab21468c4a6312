"""A server that stops listening, and who has just connected."""

from __future__ import annotations

import asyncio

from muster_worker.serve.listening import ASKS_WITHIN, http_server, listen
from muster_worker.serve.metrics import Metrics
from muster_worker.serve.service import Limits, Service

LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: here\r\n\r\n"


async def ask(reader, writer):
    writer.write(LIVE)
    return await asyncio.wait_for(reader.readline(), 5)


async def until(holds):
    while not holds():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)


async def leave_while_somebody_connects():
    """Its answers to who connected just before it stopped listening, and to who did just after."""
    listening = listen("127.0.0.1", 0)
    address = listening.getsockname()
    beside = listening.dup()  # as the parent's, which the next process listens on
    server = http_server(Service("affine", Limits(), Metrics()))
    serving = asyncio.create_task(server.serve([listening]))
    await until(lambda: server.started)
    before = await asyncio.open_connection(*address)
    server.should_exit = True
    await until(lambda: not server.servers[0].is_serving())
    after = await asyncio.open_connection(*address)
    await asyncio.sleep(ASKS_WITHIN / 4)
    said = await ask(*before)
    await serving
    next_one = http_server(Service("affine", Limits(), Metrics()))
    serving = asyncio.create_task(next_one.serve([beside]))
    then = await ask(*after)
    next_one.should_exit = True
    for _, writer in before, after:
        writer.close()
    await serving
    return said, then


def test_who_has_just_connected_is_answered_and_who_comes_then_waits_for_the_next():
    assert asyncio.run(leave_while_somebody_connects()) == (b"HTTP/1.1 200 OK\r\n",) * 2
