"""The Open Inference Protocol v2 over HTTP, as an ASGI application without a framework."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

import muster_worker
from muster_worker.serve import json_codec
from muster_worker.serve.encodings import decoded
from muster_worker.serve.errors import (
    INTERNAL,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    RequestError,
    TooLargeError,
    WrongMethodError,
)
from muster_worker.serve.generate import json_codec as text_codec
from muster_worker.serve.gone import ClientHasGoneError, until_client_goes
from muster_worker.serve.protocol import EXTENSIONS, PLATFORM, SERVER, properties_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from muster_worker.serve.generate.generations import Generations
    from muster_worker.serve.generate.request import GenerateRequest
    from muster_worker.serve.generate.sequence import Piece
    from muster_worker.serve.service import Service
    from muster_worker.serve.tensors import TensorSpec

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Headers = list[tuple[bytes, bytes]]
    Events = AsyncGenerator[bytes, None]

log = logging.getLogger(__name__)

_JSON = (b"content-type", b"application/json")
_LENGTH_OF_JSON = b"inference-header-content-length"


_DIGITS = 18
"""That a number of bytes may have; of thousands, Python makes no number."""

_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_T = TypeVar("_T")


class Application:
    """`service` does the work; this says what it is asked, and what it answered."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        try:
            status, headers, body = await self._answer(scope, receive)
        except ClientHasGoneError:
            return
        except RequestError as error:
            status, headers, body = error.status, [_JSON], orjson.dumps({"error": str(error)})
            if isinstance(error, (OverloadedError, NotReadyError)):
                headers.append((b"retry-after", b"1"))
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            status, headers, body = INTERNAL, [_JSON], b'{"error":"an error of the server: its log has it"}'
        if isinstance(body, bytes):
            headers.append((b"content-length", str(len(body)).encode()))
        if self._service.draining:
            headers.append((b"connection", b"close"))  # the client's next request then finds another replica
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if isinstance(body, bytes):
            await send({"type": "http.response.body", "body": body})
        else:
            with contextlib.suppress(ClientHasGoneError):
                await _unless_gone(receive, _send_events(body, send))

    async def _answer(self, scope: dict[str, Any], receive: Receive) -> tuple[int, Headers, bytes | Events]:
        method, path = scope["method"], scope["path"]
        match path.strip("/").split("/"):
            case ["v2", "models", name, *rest] if rest and rest[-1] == "infer":
                _allow(method, "POST", path)
                version, body = _version(rest[:-1], path), await self._body(scope, receive)
                with self._service.counting("http"), until_client_goes(scope):
                    return await self._infer(name, version, scope, body, receive)
            case ["v2", "models", name, *rest] if rest and rest[-1] == "explain":
                _allow(method, "POST", path)
                version, body = _version(rest[:-1], path), await self._body(scope, receive)
                with self._service.counting_explanation(), until_client_goes(scope):
                    return await self._explain(name, version, scope, body)
            case ["v2", "models", name, *rest] if rest and rest[-1] in ("generate", "generate_stream"):
                _allow(method, "POST", path)
                version, body = _version(rest[:-1], path), await self._body(scope, receive)
                if rest[-1] == "generate":
                    return 200, [_JSON], await _unless_gone(receive, self._generate(name, version, body))
                return 200, [_EVENTS, (b"cache-control", b"no-cache")], await self._begun(name, version, body, receive)
            case ["v2", "models", name, *rest]:
                _allow(method, "GET", path)
                asks_ready = rest[-1:] == ["ready"]
                version = _version(rest[:-1] if asks_ready else rest, path)
                if asks_ready:
                    return self._is_ready(name, version)
                return self._about_model(name, version)
            case _:
                return self._about_server(method, path)

    def _about_server(self, method: str, path: str) -> tuple[int, Headers, bytes]:
        service = self._service
        match path.rstrip("/"):
            case "/v2":
                answer: dict[str, Any] = {
                    "name": SERVER,
                    "version": muster_worker.__version__,
                    "extensions": EXTENSIONS,
                }
            case "/v2/health/live":
                if not service.live:
                    raise NotReadyError("a computation hangs")
                answer = {"live": True}
            case "/v2/health/ready":
                if service.why_not_ready is not None:
                    raise NotReadyError(service.why_not_ready)
                answer = {"ready": True}
            case "/state":
                answer = service.state()
            case "/metrics":
                text = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
                return 200, [text], service.exposition()
            case _:
                raise NotFoundError(f"{path}: not here; GET /v2/models/{service.name} says what can be asked")
        _allow(method, "GET", path)
        return 200, [_JSON], orjson.dumps(answer)

    def _is_ready(self, name: str, version: str) -> tuple[int, Headers, bytes]:
        self._service.check(name, version)
        if self._service.why_not_ready is not None:
            raise NotReadyError(self._service.why_not_ready)
        return 200, [_JSON], orjson.dumps({"name": name, "ready": True})

    def _about_model(self, name: str, version: str) -> tuple[int, Headers, bytes]:
        self._service.check(name, version)
        model = self._service.model
        answer: dict[str, Any] = {
            "name": name,
            "versions": [model.version],
            "platform": PLATFORM,
            "inputs": _described(model.signature.inputs),
            "outputs": _described(model.signature.outputs),
        }
        if properties := properties_of(model):
            answer["properties"] = properties
        return 200, [_JSON], orjson.dumps(answer)

    async def _infer(
        self, name: str, version: str, scope: dict[str, Any], body: bytes, receive: Receive
    ) -> tuple[int, Headers, bytes]:
        service = self._service
        await service.until_loaded()
        service.check(name, version)
        model = service.model
        asked = json_codec.parse(body, _number(scope, _LENGTH_OF_JSON))
        if text_codec.is_for_text(asked, model.signature):
            generations, text = service.generations, text_codec.decode_tensors(asked)
            pieces = await _unless_gone(receive, _written(generations, text))
            return _encoded(text_codec.encode_tensors(asked, text, pieces, name, model.version))
        request = json_codec.decode(asked, model.signature)
        return _encoded(json_codec.encode(request, await service.infer(request), name, model.version))

    async def _explain(self, name: str, version: str, scope: dict[str, Any], body: bytes) -> tuple[int, Headers, bytes]:
        service = self._service
        await service.until_loaded()
        service.check(name, version)
        signature = service.explanations.signature
        request = json_codec.decode(json_codec.parse(body, _number(scope, _LENGTH_OF_JSON)), signature)
        return _encoded(json_codec.encode(request, await service.explain(request), name, service.model.version))

    async def _generate(self, name: str, version: str, body: bytes) -> bytes:
        service = self._service
        with service.counting("http"):
            await service.until_loaded()
            service.check(name, version)
            generations, request = service.generations, text_codec.decode(body)
            pieces = await _written(generations, request)
            return text_codec.encode(request, pieces, name, service.model.version)

    async def _begun(self, name: str, version: str, body: bytes, receive: Receive) -> Events:
        """The events, once there is one: whatever is wrong before is told by the status."""
        events = self._events(name, version, body)
        first = await _unless_gone(receive, anext(events))

        async def all_of_them() -> Events:
            async with contextlib.aclosing(events):
                yield first
                async for event in events:
                    yield event

        return all_of_them()

    async def _events(self, name: str, version: str, body: bytes) -> Events:
        service = self._service
        with service.counting("http"):
            await service.until_loaded()
            service.check(name, version)
            generations, request = service.generations, text_codec.decode(body)
            async with contextlib.aclosing(generations.generate(request.text, request.parameters)) as pieces:
                async for piece in pieces:
                    if piece.text or piece.finish_reason or request.parameters.details:
                        yield text_codec.event(request, piece, name, service.model.version)

    async def _body(self, scope: dict[str, Any], receive: Receive) -> bytes:
        limit = self._service.limits.request_bytes
        if (_number(scope, b"content-length") or 0) > limit:
            raise TooLargeError(f"the body: more than {limit} bytes")
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientHasGoneError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise TooLargeError(f"the body: more than {limit} bytes")
            more = message.get("more_body", False)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        encoding = _header(scope, b"content-encoding")
        return body if encoding is None else decoded(body, encoding.decode(errors="replace"), limit)


async def _written(generations: Generations, request: GenerateRequest) -> list[Piece]:
    return [piece async for piece in generations.generate(request.text, request.parameters)]


async def _send_events(events: Events, send: Send) -> None:
    """All of them; one that tells of an error is the last."""
    async with contextlib.aclosing(events):
        try:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except RequestError as error:
            await send({"type": "http.response.body", "body": text_codec.error_event(error), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _unless_gone(receive: Receive, work: Awaitable[_T]) -> _T:
    """What it gives. When the client goes, of whom no more is expected, it is cancelled; raises ClientHasGoneError."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, going = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait([working, going], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientHasGoneError
        return working.result()
    finally:
        going.cancel()
        working.cancel()


def _allow(method: str, wanted: str, path: str) -> None:
    if method != wanted:
        raise WrongMethodError(f"{path}: found {method}, wanted {wanted}")


def _version(words: Sequence[str], path: str) -> str:
    """The version in `/v2/models/NAME[/versions/VERSION]…`."""
    match words:
        case []:
            return ""
        case ["versions", version]:
            return version
        case _:
            raise NotFoundError(f"{path}: not here")


def _number(scope: dict[str, Any], header: bytes) -> int | None:
    value = _header(scope, header)
    if value is None:
        return None
    if not value.isdigit() or len(value) > _DIGITS:
        found = value[: _DIGITS + 1].decode(errors="replace")
        raise RequestError(f"{header.decode()}: found {found!r}, wanted a number of bytes")
    return int(value)


def _header(scope: dict[str, Any], header: bytes) -> bytes | None:
    for name, value in scope["headers"]:
        if name == header:
            return value
    return None


def _encoded(answer: tuple[bytes, int | None]) -> tuple[int, Headers, bytes]:
    body, length = answer
    if length is None:
        return 200, [_JSON], body
    binary = (b"content-type", b"application/octet-stream")
    return 200, [binary, (_LENGTH_OF_JSON, str(length).encode())], body


def _described(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]
