"""The operator's own HTTP server: is it alive, is it ready, how does it do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable


def application(registry: CollectorRegistry, *, ready: Callable[[], str]) -> web.Application:
    """`ready` returns what is amiss, or an empty string. Alive is who answers at all: all work is in this loop."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        amiss = ready()
        return web.Response(text=amiss or "ok", status=503 if amiss else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


async def serve(app: web.Application, port: int) -> tuple[web.AppRunner, int]:
    """Serve on all addresses; returns what to clean up, and the port (0: the system chooses one for each family)."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner, next(int(address[1]) for address in sorted(runner.addresses, key=len))
