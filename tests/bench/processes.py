"""Those that are compared, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.bench.counts import Samples, samples, total
from tests.bench.place import ROOT
from tests.bench.systems.system import METRICS_PORT
from tests.bench.usage import usage
from tests.bench.waiting import until

if TYPE_CHECKING:
    from tests.bench.systems.system import System

LOGS = ROOT / "build" / "bench"
_READY_LIMIT, _STOP_LIMIT = 300.0, 30.0
_REST = 2.0  # seconds: longer than the pause between two questions to an agent
_IDLE = 0.3  # cores: one that has just started compares what it knows, without a look at any job
# However this program ends, they end with it.
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


@dataclass(frozen=True)
class Operator:
    """A running operator."""

    system: System
    process: Process
    session: aiohttp.ClientSession

    async def metrics(self) -> Samples:
        async with self.session.get("/metrics") as response:
            return samples(await response.text())

    async def looks(self) -> int | None:
        """Return how many looks at jobs it has taken; None while it does not lead."""
        if self.process.returncode is not None:
            raise AssertionError(
                f"{self.system.name}: the operator ended with {self.process.returncode}: see its log in {LOGS}"
            )
        try:
            metrics = await self.metrics()
        except aiohttp.ClientConnectionError:
            return None
        if not total(metrics, self.system.meters.leads):
            return None
        return int(total(metrics, f"{self.system.meters.reconcile}_count"))

    async def rests(self, jobs: int, *, idle: bool) -> bool:
        """Whether it leads, has looked at so many jobs and finds no more to look at; nor, if `idle`, to compare."""
        looks = await self.looks()
        if looks is None or looks < jobs:
            return False
        before = usage(self.process.pid)
        await asyncio.sleep(_REST)
        calm = (usage(self.process.pid) - before).cpu <= _IDLE * _REST
        return await self.looks() == looks and (calm or not idle)


@contextlib.asynccontextmanager
async def started(system: System, *words: str, by: signal.Signals = signal.SIGTERM) -> AsyncIterator[Process]:
    """Run a system's operator with leader election, from now on until this ends it `by` a signal."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{system.name.split()[0].lower()}.log").open("ab") as log:
        command = (*_WITH_US, *system.command(), *words)
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, cwd=ROOT)
    async with _ending(process, by):
        yield process


@contextlib.asynccontextmanager
async def operator(system: System, *words: str, jobs: int = 0, idle: bool = True) -> AsyncIterator[Operator]:
    """The same, from when it rests. One that is told to compare all the time is never `idle`."""
    address = f"http://127.0.0.1:{METRICS_PORT}"
    async with aiohttp.ClientSession(address) as session, started(system, *words) as process:
        one = Operator(system, process, session)
        await until(f"the operator of {system.name} rests", partial(one.rests, jobs, idle=idle), _READY_LIMIT)
        yield one


@dataclass(frozen=True)
class Floor:
    """A running floor."""

    process: Process

    def tell(self, job: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")


@contextlib.asynccontextmanager
async def floor() -> AsyncIterator[Floor]:
    command = (*_WITH_US, sys.executable, "-m", "tests.bench.floor")
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
    assert process.stdout is not None
    async with _ending(process):
        assert await process.stdout.readline(), "the floor ended before it was ready"
        yield Floor(process)


@contextlib.asynccontextmanager
async def _ending(process: Process, by: signal.Signals = signal.SIGTERM) -> AsyncIterator[None]:
    """The process ends with this: by that signal, or at once when this program is told to end."""
    try:
        yield
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(by)
            try:
                await asyncio.wait_for(process.wait(), _STOP_LIMIT)
            except TimeoutError:
                process.kill()
                await process.wait()
