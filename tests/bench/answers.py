"""Answers `/state` for every simulated pod, as what runs in it would.

One server for all: the address under which it was reached says which pod was meant.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from tests.bench.seen import Pod, Seen


@contextlib.asynccontextmanager
async def answering(seen: Seen, port: int, state: Callable[[Pod, Seen], dict[str, Any]]) -> AsyncIterator[None]:
    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        pod = seen.by_address.get(request.transport.get_extra_info("sockname")[0])
        return web.json_response(state(pod, seen)) if pod is not None else web.Response(status=503)

    app = web.Application()
    app.router.add_get("/state", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()
    try:
        yield
    finally:
        await runner.cleanup()
