"""Closed loop over kept connections: `load.py FILE` reads what to ask, and prints what came of it; both JSON.

Nothing but the lengths of answers is looked at while the time runs: this must be much faster than any server.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

from tests.bench.serving.figures import percentile
from tests.bench.usage import usage

_SUCCESS = (b"HTTP/1.1 200", b"HTTP/1.0 200")
_LENGTH = b"content-length:"
_LIMIT = 60.0  # seconds that the last answers may take


@dataclass
class Load:
    """`warm_up` seconds that do not count, then `seconds` that do."""

    requests: list[bytes]
    warm_up: float
    seconds: float
    server: list[int]
    """The processes that answer: what they take meanwhile is counted."""

    latencies: list[float] = field(default_factory=list)
    answers: dict[int, bytes] = field(default_factory=dict)
    """The first to each request."""

    sent: int = 0
    received: int = 0
    _next: int = 0
    _counts: bool = False

    def __post_init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, port: int, connections: int) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await loop.create_connection(lambda: Connection(self), "127.0.0.1", port)
        loop.call_later(self.warm_up, self._begin)
        async with asyncio.timeout(self.warm_up + self.seconds + _LIMIT):
            await self.over
        latencies = sorted(self.latencies)
        if not latencies:
            raise SystemExit(f"no answer within {self.seconds:g} s")
        return {
            "rate": len(latencies) / self._took,
            "p50": percentile(latencies, 0.50),
            "p99": percentile(latencies, 0.99),
            "sent": self.sent / len(latencies),
            "received": self.received / len(latencies),
            "busy": self._own / self._took,
            "server_busy": self._theirs / self._took,
            "answers": [(number, json.loads(answer)) for number, answer in self.answers.items()],
        }

    def next(self) -> int:
        self._next = (self._next + 1) % len(self.requests)
        return self._next

    def answered(self, number: int, began: float, size: int) -> None:
        if self._counts:
            self.latencies.append(time.perf_counter() - began)
            self.sent += len(self.requests[number])
            self.received += size

    def failed(self, why: str) -> None:
        if not self.over.done():
            self.over.set_exception(RuntimeError(why))

    def _begin(self) -> None:
        self._counts = True
        self._own, self._theirs = time.process_time(), self._cpu()
        self._began = time.perf_counter()
        asyncio.get_running_loop().call_later(self.seconds, self._end)

    def _end(self) -> None:
        self._counts = False
        self._took = time.perf_counter() - self._began
        self._own, self._theirs = time.process_time() - self._own, self._cpu() - self._theirs
        if not self.over.done():
            self.over.set_result(None)

    def _cpu(self) -> float:
        return sum(usage(pid).cpu for pid in self.server)


class Connection(asyncio.Protocol):
    """Sends a request, waits for its answer, and sends the next."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._end = 0  # of the answer, once its length is known

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._send()

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        if not self._end:
            self._head = received.find(b"\r\n\r\n") + 4
            if self._head < 4:
                return
            self._end = self._head + self._length(received[: self._head])
        if len(received) < self._end:
            return
        load, number = self._load, self._number
        if not received.startswith(_SUCCESS):
            load.failed(received.decode(errors="replace"))
            return
        load.answered(number, self._began, len(received))
        if number not in load.answers:
            load.answers[number] = received[self._head :]
        self._received, self._end = b"", 0
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.failed(f"the server closed a connection: {exc}")

    def _send(self) -> None:
        self._number = self._load.next()
        self._began = time.perf_counter()
        self._transport.write(self._load.requests[self._number])

    def _length(self, head: bytes) -> int:
        lines = head.lower()
        at = lines.find(_LENGTH)
        if at < 0:
            self._load.failed(f"an answer without Content-Length: {head.decode(errors='replace')}")
            return 0
        return int(lines[at + len(_LENGTH) : lines.index(b"\r", at)])


async def _run(asked: dict[str, Any]) -> dict[str, Any]:
    requests = [request.encode() for request in asked["requests"]]
    load = Load(requests, asked["warm_up"], asked["seconds"], asked["server"])
    return await load.run(asked["port"], asked["connections"])


if __name__ == "__main__":
    gc.disable()
    print(json.dumps(uvloop.run(_run(json.loads(Path(sys.argv[1]).read_text())))))
