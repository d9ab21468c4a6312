"""Where a server listens, and what answers HTTP there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import uvicorn

from muster_worker.serve.gone import client_goes
from muster_worker.serve.http import Application
from muster_worker.serve.one_protocol import OneProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster_worker.serve.service import Service

BACKLOG = 2048
_KEPT = 75
"""Seconds that an idle connection is kept: longer than clients keep theirs, who would else send when it is closed."""

ASKS_WITHIN = 0.2
"""Seconds within which whoever has connected asks: a connection that is closed before its request was read is reset."""


class _Protocol(OneProtocol):
    """Says so when a client goes."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.cycle is not None:
            client_goes(self.cycle.scope)


class HttpServer(uvicorn.Server):
    """Signals are for whoever knows when it is time to stop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Who connects from now on waits for whoever listens next; who has just connected is answered."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(ASKS_WITHIN)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(service: Service) -> HttpServer:
    return HttpServer(
        uvicorn.Config(
            Application(service),
            http=_Protocol,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # nobody asks where a client is
            timeout_keep_alive=_KEPT,
        )
    )


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """`host` empty: every address, of both families where there are both. Raises OSError.

    `shared`: others may listen there beside it.
    """
    if not host and socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG, reuse_port=shared
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
