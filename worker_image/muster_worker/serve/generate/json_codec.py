"""Requests for text and answers to them as JSON, and as server-sent events.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/generate_rest.yaml, which is Triton's
generate extension with details.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import orjson

from muster_worker.serve.errors import RequestError
from muster_worker.serve.generate.parameters import parse_parameters
from muster_worker.serve.generate.request import GenerateRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster_worker.serve.generate.sequence import Piece

_OF_THE_REQUEST = ("id", "text_input", "parameters")


def decode(body: bytes) -> GenerateRequest:
    """Raises RequestError. Parameters may stand beside `parameters` as well, as for Triton."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise RequestError("the body must be a JSON object")
    text = request.get("text_input")
    if not isinstance(text, str):
        raise RequestError(f"text_input: found {text!r}, wanted a text")
    given = request.get("parameters") or {}
    if not isinstance(given, dict):
        raise RequestError("parameters: wanted an object")
    beside = {name: value for name, value in request.items() if name not in _OF_THE_REQUEST}
    return GenerateRequest(str(request.get("id") or ""), text, parse_parameters(beside | given))


def encode(request: GenerateRequest, pieces: Sequence[Piece], model: str, version: str) -> bytes:
    """The answer to `generate`: all of the text."""
    details: dict[str, Any] = {"finish_reason": pieces[-1].finish_reason}
    if request.parameters.details:
        details["logprobs"] = [dataclasses.asdict(piece.token) for piece in pieces]
    return orjson.dumps(_answer(request, "".join(piece.text for piece in pieces), model, version, details))


def event(request: GenerateRequest, piece: Piece, model: str, version: str) -> bytes:
    """One event of `generate_stream`: what a token has added; the last one says why it is the last."""
    details: dict[str, Any] = {}
    if piece.finish_reason is not None:
        details["finish_reason"] = piece.finish_reason
    if request.parameters.details:
        details["token"] = dataclasses.asdict(piece.token)
    return b"data: " + orjson.dumps(_answer(request, piece.text, model, version, details)) + b"\n\n"


def error_event(error: RequestError) -> bytes:
    """Instead of the last one: what was begun cannot be ended."""
    return b"data: " + orjson.dumps({"error": str(error)}) + b"\n\n"


def _answer(request: GenerateRequest, text: str, model: str, version: str, details: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "text_output": text}
    if request.id:
        answer["id"] = request.id
    if details:
        answer["details"] = details
    return answer
