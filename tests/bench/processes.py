"""The two that are compared, each a process of its own, and what they take of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from tests.bench.counts import Samples, samples
from tests.bench.place import ROOT
from tests.bench.waiting import until

LOGS = ROOT / "build" / "bench"
LEASE_NAMESPACE = "muster-system"
_PORT = 8080
_READY_LIMIT, _STOP_LIMIT = 300.0, 30.0
_REST = 1.5  # seconds: longer than the pause between two questions to an agent
_TICKS = os.sysconf("SC_CLK_TCK")
# However this program ends, they end with it.
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m")


@dataclass(frozen=True)
class Usage:
    """CPU seconds since its start, and the most memory that it ever had, in bytes."""

    cpu: float
    peak: int


def usage(process: Process) -> Usage:
    place = Path(f"/proc/{process.pid}")
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    peak = next(line for line in (place / "status").read_text().splitlines() if line.startswith("VmHWM:"))
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, int(peak.split()[1]) * 1024)


@dataclass(frozen=True)
class Operator:
    """A running `muster run`."""

    process: Process
    session: aiohttp.ClientSession

    async def metrics(self) -> Samples:
        async with self.session.get("/metrics") as response:
            return samples(await response.text())

    async def looks(self) -> int | None:
        """Return how many looks at jobs it has taken; None while it does not lead."""
        if self.process.returncode is not None:
            raise AssertionError(f"the operator ended with {self.process.returncode}: see its log in {LOGS}")
        try:
            metrics = await self.metrics()
        except aiohttp.ClientConnectionError:
            return None
        if not metrics["muster_leader", frozenset()]:
            return None
        return int(sum(value for (name, _), value in metrics.items() if name == "muster_reconcile_seconds_count"))

    async def rests(self, jobs: int) -> bool:
        """Whether it leads, has looked at so many jobs, and finds nothing more to look at."""
        looks = await self.looks()
        if looks is None or looks < jobs:
            return False
        await asyncio.sleep(_REST)
        return await self.looks() == looks


@contextlib.asynccontextmanager
async def operator(*words: str, jobs: int = 0) -> AsyncIterator[Operator]:
    """Run Muster as it is installed, with leader election, from when it rests until this ends."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "operator.log").open("ab") as log:
        command = (*_WITH_US, "muster", "run", "--lease-namespace", LEASE_NAMESPACE, "--http-port", str(_PORT), *words)
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, cwd=ROOT)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{_PORT}") as session:
        one = Operator(process, session)
        try:
            await until("the operator rests", partial(one.rests, jobs), _READY_LIMIT)
            yield one
        finally:
            await _stop(process)


@contextlib.asynccontextmanager
async def floor() -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*_WITH_US, "tests.bench.floor", stdin=PIPE, stdout=PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline(), "the floor ended before it was ready"
        yield process
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_LIMIT)
    except TimeoutError:
        process.kill()
        await process.wait()
