"""A stateful API server on loopback, over real HTTP, that fails on demand.

`fault` is asked about every request: it answers None, or how the request is to go wrong. Every request is kept
in `log`, so that tests can count writes and see who made them, in the order in which the server took them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from muster.client import classify
from tests.unit.control.fake_storage import RESOURCES, RefusalError, Storage, encode, has_fields, matches

if TYPE_CHECKING:
    from collections.abc import Callable

WRITES = {"create", "replace", "apply", "delete"}


@dataclass
class Seen:
    """One request as the server saw it."""

    verb: str
    resource: str
    namespace: str
    name: str
    subresource: str
    who: str
    query: dict[str, str]
    number: int
    accept: str = ""
    at: float = field(default_factory=time.monotonic)
    code: int = 0

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES

    @property
    def is_work(self) -> bool:
        """A write that is not about the lease."""
        return self.is_write and self.resource != "leases"


@dataclass(frozen=True)
class Answer:
    """Answer with this instead; `done`: after doing what was asked, so that the caller cannot know."""

    status: int
    reason: str = ""
    retry_after: str = ""
    done: bool = False


@dataclass(frozen=True)
class Drop:
    """Close the connection without an answer."""

    done: bool = False


@dataclass(frozen=True)
class Hang:
    """Never answer."""

    done: bool = False


@dataclass(frozen=True)
class BreakWatch:
    """Begin the watch, pass on so many events, then break the stream in the middle of a line."""

    after: int = 0


@dataclass(frozen=True)
class EndWatch:
    """Begin the watch and end it with an ERROR event."""

    code: int = 410


Fault = Answer | Drop | Hang | BreakWatch | EndWatch


class FakeApi:
    def __init__(self) -> None:
        self.storage = Storage()
        self.log: list[Seen] = []
        self.fault: Callable[[Seen], Fault | None] = lambda _: None
        self.unknown = {"httproutes", "workloads", "resourceflavors"}
        """What the server does not serve: nobody has installed Kueue yet, nor the Gateway API."""
        self.unsaid: set[str] = set()
        """What it serves, and does not yet say so."""
        self.url = ""
        self.bookmark_every = 0.2
        self._watching: set[asyncio.Event] = set()
        self._hanging: set[asyncio.Event] = set()
        self._runner: web.AppRunner | None = None
        self._closing = False
        self._watched_since = 0
        self._connections: set[object] = set()
        self.most_connections = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        for event in self._hanging:
            event.set()
        assert self._runner is not None
        await self._runner.cleanup()

    def configuration(self, who: str = "operator") -> Configuration:
        configuration = Configuration(host=self.url)
        configuration.api_key["BearerToken"] = f"Bearer {who}"
        return configuration

    def writes(self) -> list[Seen]:
        return [seen for seen in self.log if seen.is_write]

    def work(self) -> list[Seen]:
        return [seen for seen in self.log if seen.is_work]

    def all(self, plural: str) -> list[dict[str, Any]]:
        return self.storage.select(plural, "")

    def end_watches(self) -> None:
        """Break off every watch, as a restart of the server does."""
        self._watched_since += 1
        self.wake()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._connections.add(request.transport)
        self.most_connections = max(self.most_connections, len(self._connections))
        parts = request.path.strip("/").split("/")
        if (found := _discovery(parts, self.unknown | self.unsaid)) is not None:
            return web.json_response(found)
        seen = self._note(request)
        fault = self.fault(seen)
        body = await request.json() if request.can_read_body else {}
        if fault is None or isinstance(fault, BreakWatch | EndWatch):
            return await self._answer(request, seen, body, fault)
        if fault.done:
            with contextlib.suppress(RefusalError):
                self._do(seen, body)
        if isinstance(fault, Answer):
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            seen.code = fault.status
            return _status(fault.status, fault.reason, "injected", headers)
        if isinstance(fault, Hang):
            event = asyncio.Event()
            self._hanging.add(event)
            await event.wait()
        assert request.transport is not None
        request.transport.close()
        return web.Response(status=500)

    async def _answer(
        self, request: web.Request, seen: Seen, body: dict[str, Any], fault: Fault | None
    ) -> web.StreamResponse:
        try:
            self._must_serve(seen)
            if seen.verb == "watch":
                seen.code = 200
                return await self._watch(request, seen, fault)
            answer = self._list(seen) if seen.verb == "list" else self._do(seen, body)
        except RefusalError as refusal:
            seen.code = refusal.status
            return _status(refusal.status, refusal.reason, refusal.message)
        seen.code = 200
        return web.Response(body=encode(answer), content_type="application/json")

    def _must_serve(self, seen: Seen) -> None:
        if seen.resource in self.unknown:
            raise RefusalError(404, "NotFound", "the server could not find the requested resource")

    def _note(self, request: web.Request) -> Seen:
        verb, resource = classify(request.method, request.path, request.query)
        parts = request.path.strip("/").split("/")
        parts = parts[3:] if parts[0] == "apis" else parts[2:]
        namespace = parts[1] if parts[0] == "namespaces" and len(parts) > 2 else ""
        rest = parts[2:] if namespace else parts
        name, subresource = (*rest[1:], "", "")[:2]
        who = request.headers.get("Authorization", "").removeprefix("Bearer ")
        number = 1 + sum(one.verb == verb and one.resource == resource for one in self.log)
        accept = request.headers.get("Accept", "")
        seen = Seen(verb, resource, namespace, name, subresource, who, dict(request.query), number, accept)
        self.log.append(seen)
        return seen

    def _do(self, seen: Seen, body: dict[str, Any]) -> dict[str, Any]:
        identity = (seen.resource, seen.namespace, seen.name)
        if seen.verb == "get":
            return self.storage.get(identity)
        if seen.verb == "create":
            answer = self.storage.create(seen.resource, seen.namespace, body)
        elif seen.verb == "replace":
            answer = self.storage.replace(identity, body)
        elif seen.verb == "apply":
            answer = self.storage.apply(
                identity, body, seen.query["fieldManager"], seen.subresource, force=seen.query["force"] == "true"
            )
        else:
            answer = self.storage.delete(identity, body)
        self.wake()
        return answer

    def wake(self) -> None:
        """Tell the watches that the storage changed; needed after changing it directly."""
        for changed in self._watching:
            changed.set()

    def _list(self, seen: Seen) -> dict[str, Any]:
        resource = RESOURCES[seen.resource]
        query = seen.query
        items = self.storage.select(
            seen.resource, seen.namespace, query.get("labelSelector", ""), query.get("fieldSelector", "")
        )
        version, start = self.storage.version, 0
        if token := query.get("continue"):
            version, start = json.loads(base64.b64decode(token))
            if version < self.storage.compacted:
                raise RefusalError(410, "Expired", "the continue parameter is too old")
        limit = int(query.get("limit") or 0) or len(items)
        meta = {"resourceVersion": str(version)}
        if start + limit < len(items):
            meta["continue"] = base64.b64encode(encode([version, start + limit])).decode()
        chunk = [
            {name: value for name, value in item.items() if name not in {"apiVersion", "kind"}}
            for item in items[start : start + limit]
        ]
        kind = f"{resource.kind}List"
        return {"apiVersion": resource.api_version, "kind": kind, "metadata": meta, "items": chunk}

    async def _watch(self, request: web.Request, seen: Seen, fault: Fault | None) -> web.StreamResponse:
        if not seen.query.get("timeoutSeconds", "0").isdigit():
            raise RefusalError(400, "BadRequest", "timeoutSeconds: invalid syntax")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        since = int(seen.query.get("resourceVersion") or self.storage.version)
        if isinstance(fault, EndWatch) or since < self.storage.compacted:
            code = fault.code if isinstance(fault, EndWatch) else 410
            await response.write(_event("ERROR", {"kind": "Status", "code": code, "reason": "injected"}))
            return response
        left = fault.after if isinstance(fault, BreakWatch) else None
        changed, begun = asyncio.Event(), self._watched_since
        self._watching.add(changed)
        try:
            while not self._closing and begun == self._watched_since:
                changed.clear()
                for change in [one for one in self.storage.history if one.version > since]:
                    since = change.version
                    if not self._concerns(seen, change):
                        continue
                    if left == 0:
                        await self._cut(request, response)
                        return response
                    left = None if left is None else left - 1
                    await response.write(_event(change.type, change.object))
                await self._bookmark(response, seen, since)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.bookmark_every):
                        await changed.wait()
        except ConnectionResetError:
            pass
        finally:
            self._watching.discard(changed)
        return response

    @staticmethod
    async def _cut(request: web.Request, response: web.StreamResponse) -> None:
        await response.write(b'{"type": "MODIF')
        assert request.transport is not None
        request.transport.abort()

    @staticmethod
    async def _bookmark(response: web.StreamResponse, seen: Seen, version: int) -> None:
        resource = RESOURCES[seen.resource]
        mark = {"metadata": {"resourceVersion": str(version)}}
        await response.write(_event("BOOKMARK", {"apiVersion": resource.api_version, "kind": resource.kind} | mark))

    def _concerns(self, seen: Seen, change: Any) -> bool:
        return (
            change.plural == seen.resource
            and seen.namespace in {"", change.object["metadata"].get("namespace", "")}
            and matches(change.object, seen.query.get("labelSelector", ""))
            and has_fields(change.object, seen.query.get("fieldSelector", ""))
        )


def _event(what: str, content: dict[str, Any]) -> bytes:
    return encode({"type": what, "object": content}) + b"\n"


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code, headers=headers)


def _discovery(parts: list[str], unknown: set[str]) -> dict[str, Any] | None:
    if parts == ["api"]:
        return {"versions": ["v1"]}
    if parts == ["apis"]:
        served = [one for one in RESOURCES.values() if one.group and one.plural not in unknown]
        groups = sorted({(one.group, one.version) for one in served})
        return {
            "groups": [
                {
                    "name": group,
                    "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                    "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
                }
                for group, version in groups
            ]
        }
    if len(parts) == 2 and parts[0] == "api":
        return _resources("", parts[1], unknown)
    if len(parts) == 3 and parts[0] == "apis":
        return _resources(parts[1], parts[2], unknown)
    return None


def _resources(group: str, version: str, unknown: set[str]) -> dict[str, Any]:
    listed: list[dict[str, Any]] = []
    for one in RESOURCES.values():
        if (one.group, one.version) != (group, version) or one.plural in unknown:
            continue
        names = {"name": one.plural, "singularName": one.kind.lower(), "kind": one.kind}
        listed.append(
            names | {"namespaced": one.namespaced, "verbs": ["get", "list", "watch", "patch", "create", "delete"]}
        )
    return {"kind": "APIResourceList", "groupVersion": f"{group}/{version}".strip("/"), "resources": listed}
