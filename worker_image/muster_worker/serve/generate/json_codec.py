"""Requests for text and answers to them as JSON, as server-sent events, and as tensors of an inference.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/generate_rest.yaml, which is Triton's
generate extension with details.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import orjson

from muster_worker.serve.errors import RequestError
from muster_worker.serve.generate import tensors
from muster_worker.serve.generate.parameters import parse_parameters
from muster_worker.serve.generate.request import GenerateRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from muster_worker.serve.generate.sequence import Piece
    from muster_worker.serve.json_codec import Body
    from muster_worker.serve.model import Signature

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


def is_for_text(body: Body, signature: Signature) -> bool:
    """Of an inference."""
    return tensors.are_asked([entry.get("name") for entry in body.inputs], signature)


def decode_tensors(body: Body) -> GenerateRequest:
    """The request of an inference. Raises RequestError."""
    outputs = [wanted.name for wanted in body.outputs]
    return tensors.request_of(body.id, _tensors(body), outputs, body.parameters)


def encode_tensors(
    body: Body, request: GenerateRequest, pieces: Sequence[Piece], model: str, version: str
) -> tuple[bytes, int | None]:
    """All of the text, and how many bytes of that are JSON where it follows them; `body`: what was asked."""
    text = "".join(piece.text for piece in pieces)
    binary = any(wanted.binary for wanted in body.outputs) if body.outputs else body.binary
    content = tensors.packed(text) if binary else b""
    output: dict[str, Any] = {"name": tensors.OUTPUT, "datatype": tensors.BYTES, "shape": [1]}
    output |= {"parameters": {"binary_data_size": len(content)}} if binary else {"data": [text]}
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": [output]}
    answer["parameters"] = {"finish_reason": pieces[-1].finish_reason}
    if request.id:
        answer["id"] = request.id
    head = orjson.dumps(answer)
    return head + content, len(head) if binary else None


def _tensors(body: Body) -> Iterator[tensors.TextTensor]:
    for entry, part in body.tensors():
        name, shape = str(entry.get("name")), entry.get("shape")
        if not isinstance(shape, list):
            raise RequestError(f"input {name}: its shape is {shape}, wanted a list")
        contents = _strings(name, entry.get("data")) if part is None else tensors.elements(name, part)
        yield tensors.TextTensor(name, str(entry.get("datatype")), shape, contents)


def _strings(name: str, data: Any) -> list[bytes]:
    """Flat or nested."""
    texts = data
    while isinstance(texts, list) and any(isinstance(one, list) for one in texts):
        texts = list(itertools.chain.from_iterable(one if isinstance(one, list) else [one] for one in texts))
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError(f"input {name}: its data is {data!r}, wanted a list of texts")
    return [text.encode() for text in texts]


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
