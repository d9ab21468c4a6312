"""Measures and reports, from within the cluster's network: the floor, the systems, the floor again, a table of all.

`python -m tests.bench` brings this about. Told to end, it asks for the removal of everything and does not wait for it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Coroutine
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests.bench import agents, cluster, place, report
from tests.bench.answers import answering
from tests.bench.api import Api
from tests.bench.scenario import Life, Scenario, Start
from tests.bench.seen import watching
from tests.bench.systems.jobset import JOBSET
from tests.bench.systems.muster import MUSTER
from tests.bench.systems.pytorchjob import PYTORCHJOB

if TYPE_CHECKING:
    from tests.bench.systems.system import System

PEERS = {"jobset": JOBSET, "pytorchjob": PYTORCHJOB}
WARM_UP = 20
"""Jobs of a first run of the floor that does not count: an API server that has just started is slower."""
_STARTED = time.monotonic()
_T = TypeVar("_T")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.measure", description=__doc__)
    add_options(parser)
    given = parser.parse_args()
    try:
        with place.addresses_of_pods():
            result = asyncio.run(until_told(_run(given.jobs, [PEERS[name] for name in given.peers])))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(f"\n{result.text}")
    if given.record is not None:
        report.record(given.record, report.BENCH, result.text)
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=positive, default=1000, metavar="N", help="jobs of four workers (1000)")
    parser.add_argument(
        "--peers",
        type=_peers,
        default=[],
        metavar="NAME,…",
        help=f"whom to measure beside Muster: {', '.join(PEERS)}",
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="put the tables in the place of those in this document"
    )


async def until_told(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end, or until a signal comes."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


async def _run(jobs: int, peers: list[System]) -> report.Report:
    async with await Api.connect() as api:
        await cluster.prepare(api)
        try:
            found = await _measured(api, jobs, peers)
        finally:
            await cluster.remove(api, peers)
        await cluster.gone(api)
    return found


async def _measured(api: Api, jobs: int, peers: list[System]) -> report.Report:
    """Those that are given as many jobs come one after the other, between two runs of the floor."""
    await _floor(api, min(jobs, WARM_UP))
    floors: dict[int, tuple[Start, Start]] = {}
    lives: list[Life] = []
    for number, systems in groupby([MUSTER, *peers], key=lambda system: system.number(jobs)):
        before = await _floor(api, number)
        lives += [await _life(api, system, number) for system in systems]
        floors[number] = before, await _floor(api, number)
    return report.Report(floors, lives, peers=list(peers))


async def _floor(api: Api, number: int) -> Start:
    """Its jobs are TrainingJobs, whose Services and pods it makes."""
    await cluster.define(api, MUSTER)
    async with watching(api, MUSTER) as seen:
        await cluster.empty(api, seen)
        return await Scenario(api, seen, number, say).floor()


async def _life(api: Api, system: System, number: int) -> Life:
    await cluster.define(api, system)
    # Nobody but Muster asks the agents; the others wait for what the pods' status says.
    async with watching(api, system) as seen, answering(seen, agents.PORT, agents.state):
        await cluster.empty(api, seen)
        return await Scenario(api, seen, number, say).life()


def say(text: str) -> None:
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", flush=True)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted 1 or more")
    return number


def _peers(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: wanted some of {', '.join(PEERS)}")
    # Those that are given fewer jobs come last, with a floor of their own.
    return sorted(dict.fromkeys(names), key=lambda name: PEERS[name].most is not None)


if __name__ == "__main__":
    sys.exit(main())
