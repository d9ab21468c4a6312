"""`python -m tests.bench`: the floor, Muster, the floor again, and a table of the three side by side."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from pathlib import Path

from tests.bench import agents, cluster, place, report
from tests.bench.api import Api
from tests.bench.scenario import Scenario
from tests.bench.seen import watching

WARM_UP = 20
"""Jobs of a first run of the floor that does not count: an API server that has just started is slower."""
_STARTED = time.monotonic()


def main() -> int:
    given = _parser().parse_args()
    place.enter(sys.argv[1:])
    try:
        with place.addresses_of_pods():
            result = asyncio.run(_until_told(given.jobs))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(f"\n{result.text}")
    if given.record is not None:
        report.record(given.record, result)
    return 0


async def _until_told(jobs: int) -> report.Report:
    """Run to the end, or tidy up when a signal comes."""
    task = asyncio.ensure_future(_run(jobs))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


async def _run(jobs: int) -> report.Report:
    async with await Api.connect() as api:
        await cluster.prepare(api)
        try:
            async with watching(api) as seen, agents.answering(seen):
                await cluster.empty(api, seen)
                await Scenario(api, seen, min(jobs, WARM_UP), say).floor()
                scenario = Scenario(api, seen, jobs, say)
                floor = await scenario.floor()
                life = await scenario.muster()
                floor_again = await scenario.floor()
        finally:
            await cluster.remove(api)
    return report.Report(jobs, (floor, floor_again), life)


def say(text: str) -> None:
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--jobs", type=_positive, default=1000, metavar="N", help="TrainingJobs of four workers (1000)")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="put the tables in the place of those in this document"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
