"""The benchmark's own client."""

from __future__ import annotations

import ssl

import pytest
from aiohttp import web

from muster.client import Kind
from tests.bench.api import Api, Refused

NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False)


@pytest.mark.parametrize(("status", "raises"), [(200, False), (404, False), (409, True)])
async def test_deleting_what_is_gone_is_no_error(status, raises):
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({}, status=status)

    app.router.add_delete("/api/v1/namespaces/one", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with Api(f"http://{host}:{port}", ssl.create_default_context()) as api:
            if raises:
                with pytest.raises(Refused):
                    await api.delete(NAMESPACES, "one")
            else:
                await api.delete(NAMESPACES, "one")
    finally:
        await runner.cleanup()
