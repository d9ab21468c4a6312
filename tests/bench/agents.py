"""Answers `/state` for every simulated pod, as the agents in them would.

One server for all: the address under which it was reached says which pod was meant. What it tells is what the
agents would know: their group trains once all ranks have a running pod, and its attempt is that of the newest.
No step is ever reported, as by a script that reports none: what a group that does would add is one status write
every 1 to 10 seconds, by its age.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from aiohttp import web

from muster.plan.training.pods import AGENT_PORT
from tests.bench.jobs import WORKERS

if TYPE_CHECKING:
    from tests.bench.seen import Pod, Seen


def state(pod: Pod, seen: Seen) -> dict[str, Any]:
    """The document of muster_worker.agent.state."""
    newest = seen.newest((pod.namespace, pod.job))
    running = [one for one in newest.values() if one.phase == "Running"]
    well = sum(one.phase in {"Running", "Succeeded"} for one in newest.values())
    return {
        "job": pod.job,
        "pod": pod.name,
        "rank": pod.rank,
        "podAttempt": pod.attempt,
        "attempt": max(one.attempt for one in running),
        "phase": "Running" if well == WORKERS else "Waiting",
        "worldSize": WORKERS,
        "members": [
            {"rank": one.rank, "pod": one.name, "podAttempt": one.attempt, "silentSeconds": 0.0} for one in running
        ],
        "restarts": [],
        "progress": {},
        "metrics": {},
        "checkpoint": None,
        "model": None,
        "error": None,
    }


@contextlib.asynccontextmanager
async def answering(seen: Seen) -> AsyncIterator[None]:
    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        pod = seen.by_address.get(request.transport.get_extra_info("sockname")[0])
        return web.json_response(state(pod, seen)) if pod is not None else web.Response(status=503)

    app = web.Application()
    app.router.add_get("/state", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", AGENT_PORT).start()
    try:
        yield
    finally:
        await runner.cleanup()
