"""What the load generators have in common: requests at a steady rate, each answer checked, all of it counted.

Open loop: a request is sent when its time has come, whatever became of those before. What was counted is in a file that
is replaced several times a second. No request is ever repeated.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEPT_FAILURES = 100
WRITES_EVERY = 0.2


class Failed(Exception):  # noqa: N818
    """A request that was not answered as it should have been."""


class Asked(Protocol):
    """Some inputs, as bodies of HTTP requests, and what is to be answered."""

    bodies: list[bytes]

    def check_body(self, number: int, body: bytes) -> None:
        """Raise Failed if that is not the answer to the request of this number."""


class Client(Protocol):
    def way(self, number: int) -> str:
        """Return how it sends the request of this number: new (a connection for it alone), kept or grpc."""

    def ask(self, number: int) -> Awaitable[None]: ...


class Http:
    """HTTP/1.1 as far as it is needed; `pool` has connections that are kept, for every other request if `keeps`."""

    def __init__(self, host: str, path: str, asked: Asked, *, keeps: bool = True) -> None:
        self._host, self._path, self._asked, self._keeps = host, path, asked, keeps
        self._pool: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def way(self, number: int) -> str:
        return "kept" if self._keeps and number % 2 == 0 else "new"

    async def ask(self, number: int) -> None:
        try:
            await self._ask(number, kept=self.way(number) == "kept")
        except asyncio.CancelledError:
            self._pool.clear()  # no answer in time: what else is kept may lead to the same place
            raise

    async def _ask(self, number: int, *, kept: bool) -> None:
        connection = self._usable() if kept else None
        reader, writer = connection or await asyncio.open_connection(self._host, 80)
        try:
            await self._ask_over(reader, writer, number, kept=kept)
        except asyncio.CancelledError as error:
            error.add_note(f"connected from port {writer.get_extra_info('sockname')[1]}")
            raise

    async def _ask_over(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, *, kept: bool
    ) -> None:
        body = self._asked.bodies[number % len(self._asked.bodies)]
        head = f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n"
        writer.write((head + ("" if kept else "Connection: close\r\n") + "\r\n").encode() + body)
        status, headers, answer = await self._read(reader)
        if kept and headers.get("connection") != "close":
            self._pool.append((reader, writer))
        else:
            writer.close()
        if status != 200:
            raise Failed(f"HTTP {status}: {answer[:200]!r}")
        self._asked.check_body(number, answer)

    def _usable(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._pool:
            reader, writer = self._pool.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
        return None

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


class Counts:
    """Kept in the file `path`. `limit`: seconds for an answer. Times are seconds since the epoch.

    `waited`: seconds since the oldest of the requests was sent that have no answer yet.
    """

    def __init__(self, path: Path, limit: float) -> None:
        self._path, self._limit = path, limit
        self.counted: dict[str, Any] = {"sent": 0, "answered": 0, "failed": 0, "failures": [], "slowest": 0.0}
        self._unanswered: dict[int, float] = {}

    async def one(self, way: str, request: Awaitable[None]) -> None:
        self.counted["sent"] += 1
        begun, sent, number = time.monotonic(), time.time(), self.counted["sent"]
        self._unanswered[number] = sent
        try:
            async with asyncio.timeout(self._limit):
                await request
        except Exception as error:  # noqa: BLE001 - whatever it is, the client has no answer
            self.counted["failed"] += 1
            what = f"{type(error).__name__}: {error} {' '.join(getattr(error.__cause__, '__notes__', ()))}"
            failure = {"sent": sent, "at": time.time(), "way": way, "what": what[:2000]}
            self.counted["failures"] = [*self.counted["failures"], failure][-KEPT_FAILURES:]
        else:
            self.counted["answered"] += 1
            self.counted["slowest"] = max(self.counted["slowest"], time.monotonic() - begun)
        finally:
            del self._unanswered[number]

    async def keep_writing(self) -> None:
        while True:
            new = self._path.with_suffix(".new")
            now = time.time()
            waited = max((now - sent for sent in self._unanswered.values()), default=0.0)
            new.write_text(json.dumps(self.counted | {"at": now, "waited": waited}))
            new.rename(self._path)
            await asyncio.sleep(WRITES_EVERY)


async def ask_steadily(clients: Callable[[int], Client], rate: float, counts: Counts) -> None:
    """Send `rate` requests a second, without end."""
    under_way: set[asyncio.Task[None]] = {asyncio.create_task(counts.keep_writing())}
    begun = time.monotonic()
    for number in itertools.count():
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        client = clients(number)
        task = asyncio.create_task(counts.one(client.way(number), client.ask(number)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
