"""Measures and reports, from within the cluster's network: the floor, Muster, the floor again, a table.

`python -m tests.bench.deployments` brings this about. Told to end, it asks for the removal of everything and does not
wait for it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import cluster, place, report
from tests.bench.answers import answering
from tests.bench.api import Api
from tests.bench.deployments import servers
from tests.bench.deployments.figures import Report
from tests.bench.deployments.resources import DEPLOYMENTS
from tests.bench.deployments.scenario import Life, Scenario
from tests.bench.measure import WARM_UP, positive, say, until_told
from tests.bench.seen import watching

if TYPE_CHECKING:
    from tests.bench.scenario import Start


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.deployments.measure", description=__doc__)
    add_options(parser)
    given = parser.parse_args()
    try:
        with place.addresses_of_pods():
            result = asyncio.run(until_told(_run(given.deployments)))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(f"\n{result.text}")
    if given.record is not None:
        report.record(given.record, report.DEPLOYMENTS, result.text)
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--deployments", type=positive, default=500, metavar="N", help="deployments of two groups of two pods (500)"
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="put the table in the place of that in this document"
    )


async def _run(number: int) -> Report:
    async with await Api.connect() as api:
        await cluster.prepare(api)
        await cluster.define(api, DEPLOYMENTS)
        try:
            await _floor(api, min(number, WARM_UP))
            before, life = await _floor(api, number), await _life(api, number)
            found = Report(number, (before, await _floor(api, number)), life)
        finally:
            await cluster.remove(api, ())
        await cluster.gone(api)
    return found


async def _floor(api: Api, number: int) -> Start:
    async with watching(api, DEPLOYMENTS) as seen:
        await cluster.empty(api, seen)
        return await Scenario(api, seen, number, say).floor()


async def _life(api: Api, number: int) -> Life:
    async with watching(api, DEPLOYMENTS) as seen, answering(seen, servers.PORT, servers.state):
        await cluster.empty(api, seen)
        return await Scenario(api, seen, number, say).life()


if __name__ == "__main__":
    sys.exit(main())
