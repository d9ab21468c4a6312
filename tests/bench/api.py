"""The benchmark's own client: as little as can be between a request and the API server.

The floor is made of it, so it has what Muster's client has (TLS, as many connections) and nothing of what that
one does besides: no repeats, no metrics, no tokens.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from muster.client import Kind, Limits, load_configuration

CONNECTIONS = Limits().connections
_MERGE = {"Content-Type": "application/merge-patch+json"}
_APPLY = {"Content-Type": "application/apply-patch+yaml"}


class Refused(Exception):  # noqa: N818
    """The API server would not do it."""

    def __init__(self, call: str, status: int, answer: bytes) -> None:
        super().__init__(f"{call}: {status}: {answer[:300].decode(errors='replace')}")
        self.status = status


class Api:
    """Requests over at most `CONNECTIONS` connections; watches have connections of their own."""

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        limit = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._session = aiohttp.ClientSession(
            server, connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=tls), timeout=limit
        )
        self._watching = aiohttp.ClientSession(
            server, connector=aiohttp.TCPConnector(limit=0, ssl=tls), timeout=limit, read_bufsize=1 << 20
        )

    @classmethod
    async def connect(cls) -> Api:
        """To the cluster of $KUBECONFIG."""
        configuration = await load_configuration()
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        tls.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        return cls(configuration.host, tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._watching.close()

    async def create(self, kind: Kind, manifest: Mapping[str, Any]) -> dict[str, Any]:
        return await self._json("POST", kind.path(manifest["metadata"].get("namespace")), manifest)

    async def apply(self, kind: Kind, manifest: Mapping[str, Any]) -> None:
        path = kind.path(None, manifest["metadata"]["name"])
        await self._json("PATCH", f"{path}?fieldManager=bench&force=true", manifest, _APPLY)

    async def merge_status(self, kind: Kind, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        await self._json("PATCH", kind.path(namespace, name, "status"), {"status": status}, _MERGE)

    async def list(self, kind: Kind, namespace: str | None = None, selector: str = "") -> dict[str, Any]:
        return await self._json("GET", f"{kind.path(namespace)}?labelSelector={selector}")

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        await self._json("PATCH", kind.path(namespace, name), patch, _MERGE)

    async def delete(self, kind: Kind, name: str, namespace: str | None = None) -> None:
        """What is gone already is no error."""
        try:
            await self._json("DELETE", kind.path(namespace, name))
        except Refused as refused:
            if refused.status != 404:
                raise

    async def delete_all(self, kind: Kind, namespace: str) -> None:
        """Without waiting for anybody: no grace, and what is owned is somebody else's to delete."""
        options = {"kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        await self._json("DELETE", kind.path(namespace), options)

    async def text(self, path: str) -> str:
        return (await self._bytes("GET", path)).decode()

    async def watch(self, kind: Kind, selector: str, version: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the events until the server ends the stream."""
        query = f"watch=true&labelSelector={selector}&resourceVersion={version}&timeoutSeconds=3600"
        async with self._watching.get(f"{kind.path()}?{query}") as response:
            if response.status != 200:
                raise Refused(f"watch of {kind.plural}", response.status, await response.read())
            async for line in response.content:
                yield json.loads(line)

    async def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self._bytes(method, path, body, headers))
        return answer

    async def _bytes(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        content = None if body is None else json.dumps(body).encode()
        headers = headers or {"Content-Type": "application/json"}
        async with self._session.request(method, path, data=content, headers=headers) as response:
            answer = await response.read()
        if response.status >= 400:
            raise Refused(f"{method} {path}", response.status, answer)
        return answer
