"""Runs one history from within the cluster's network; `python -m tests.faults` brings that about."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
from functools import partial

from tests.bench import agents, cluster, place
from tests.bench.answers import answering
from tests.bench.api import Api
from tests.bench.measure import positive, say, until_told
from tests.bench.processes import started
from tests.bench.seen import watching
from tests.bench.systems.muster import MUSTER
from tests.bench.waiting import until
from tests.faults.history import History

JOBS, OPERATORS = 120, 12
RATE = 25.0
"""Events a second."""
LEADS_AFTER = 16.0
"""Seconds: by then an operator leads whose predecessor was killed, and could not give its lease back."""
_LIMIT = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.measure")
    add_options(parser)
    given = parser.parse_args()
    try:
        with place.addresses_of_pods():
            return asyncio.run(until_told(_run(given.seed, given.operators)))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of what happens, and when (1)")
    parser.add_argument(
        "--operators", type=positive, default=OPERATORS, metavar="N", help=f"of which all but one end ({OPERATORS})"
    )


async def _run(seed: int, operators: int) -> int:
    async with await Api.connect() as api:
        await cluster.prepare(api)
        try:
            await cluster.define(api, MUSTER)
            async with watching(api, MUSTER) as seen, answering(seen, agents.PORT, agents.state):
                await cluster.empty(api, seen)
                history = History(api, seen, JOBS, random.Random(seed))
                left = await _lived(history, operators)
        finally:
            await cluster.remove(api, [])
    for broken in (*history.broken, *left):
        say(broken)
    return 1 if history.broken or left else 0


async def _lived(history: History, operators: int) -> list[str]:
    """Each operator is killed in the middle of things, or told to end, but for the last; what is not settled then."""
    await history.begin(JOBS // 2)
    for number in range(1, operators):
        by = history.random.choices((signal.SIGKILL, signal.SIGTERM), (7, 3))[0]
        async with started(MUSTER, by=by):
            await asyncio.sleep(history.random.choice((0.0, 3.0, LEADS_AFTER)))
            await _happening(history, history.random.uniform(2, 12))
            say(f"{sum(history.happened.values())} events; operator {number} of {operators} gets {by.name}")
        await _happening(history, 1.0)
    async with started(MUSTER):
        began = time.monotonic()
        with contextlib.suppress(AssertionError):
            await until("all is as wanted", partial(_is_settled, history), _LIMIT)
        say(f"{', '.join(f'{what}: {count}' for what, count in history.happened.items())}")
        left = history.unsettled()
        said = f"{len(left)} jobs are not as wanted" if left else "all is as wanted"
        say(f"{said} {time.monotonic() - began:.0f} s after the last operator was started")
    return left


async def _is_settled(history: History) -> bool:
    return not history.unsettled()


async def _happening(history: History, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await history.event()
        await asyncio.sleep(history.random.expovariate(RATE))


if __name__ == "__main__":
    sys.exit(main())
