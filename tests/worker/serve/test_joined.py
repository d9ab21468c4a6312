"""One packet for an answer, whatever it is made of."""

from __future__ import annotations

import asyncio

import pytest

from muster_worker.serve.joined import JoinedWrites
from muster_worker.serve.listening import http_server, listen
from muster_worker.serve.metrics import Metrics
from muster_worker.serve.service import Limits, Service

LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: here\r\n\r\n"


class Recorder(asyncio.Transport):
    """What is done to a connection."""

    def __init__(self):
        super().__init__()
        self.done = []
        self.gone = False

    def write(self, data):
        self.done.append(bytes(data))

    def close(self):
        self.done.append("closed")
        self.gone = True

    def is_closing(self):
        return self.gone


@pytest.mark.parametrize("parts", [[b"head"], [b"head", b"body"], [b"head", bytearray(b"bo"), memoryview(b"dy")]])
def test_what_is_written_in_one_turn_is_sent_as_one(parts):
    async def write():
        below = Recorder()
        above = JoinedWrites(below, asyncio.get_running_loop())
        for part in parts:
            above.write(part)
        at_once = list(below.done)
        await asyncio.sleep(0)
        above.write(b"next")
        await asyncio.sleep(0)
        return at_once, below.done

    assert asyncio.run(write()) == ([], [b"".join(parts), b"next"])


def test_what_is_written_before_it_is_closed_is_sent():
    async def write():
        below = Recorder()
        above = JoinedWrites(below, asyncio.get_running_loop())
        above.write(b"last")
        above.close()
        await asyncio.sleep(0)
        return below.done, above.is_closing()

    assert asyncio.run(write()) == ([b"last", "closed"], True)


def test_nothing_is_sent_to_a_client_that_has_gone_meanwhile():
    async def write():
        below = Recorder()
        above = JoinedWrites(below, asyncio.get_running_loop())
        above.write(b"too late")
        below.gone = True
        await asyncio.sleep(0)
        return below.done

    assert asyncio.run(write()) == []


def test_an_answer_of_the_server_is_one_write(monkeypatch):
    """Of its head and its body."""
    sent = []
    send = JoinedWrites._send

    def record(self):
        sent.append(b"".join(self._parts))
        send(self)

    monkeypatch.setattr(JoinedWrites, "_send", record)

    async def ask():
        listening = listen("127.0.0.1", 0)
        address = listening.getsockname()
        server = http_server(Service("affine", Limits(), Metrics()))
        serving = asyncio.create_task(server.serve([listening]))
        reader, writer = await asyncio.open_connection(*address)
        writer.write(LIVE)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(len(b'{"live":true}'))
        writer.close()
        server.should_exit = True
        await serving
        return head + body

    answer = asyncio.run(ask())
    assert [one for one in sent if one] == [answer]
    assert answer.endswith(b'{"live":true}')
