"""Requests for text and answers to them as the protocol's tensors, as Triton's backends of language models have them.

`text_input` goes in and `text_output` comes out, each one element of BYTES. Whatever else is asked for is in the
request's parameters, or is a JSON object in the input `sampling_parameters`: parameters are no lists, and some clients
have none that are floating point numbers. The last answer has `finish_reason`, and `triton_final_response`, by which
Triton's clients know it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import orjson

from muster_worker.serve.errors import RequestError
from muster_worker.serve.generate.parameters import parse_parameters
from muster_worker.serve.generate.request import GenerateRequest
from muster_worker.serve.grpc_messages import MESSAGES

if TYPE_CHECKING:
    from muster_worker.serve.model import Signature

INPUT, SAMPLING, OUTPUT = "text_input", "sampling_parameters", "text_output"

_OF_TRITON = "triton_"
"""So begin parameters that are about the stream, not about the text."""

_LENGTH = struct.Struct("<I")
"""Before each element of BYTES."""


def is_for_text(request: Any, signature: Signature) -> bool:
    """Whether that is no inference: it has the input `text_input`, which the model itself has not."""
    return any(entry.name == INPUT for entry in request.inputs) and all(spec.name != INPUT for spec in signature.inputs)


def decode(request: Any) -> GenerateRequest:
    """Raises RequestError."""
    texts = _texts(request)
    if INPUT not in texts:
        raise RequestError(f"input {INPUT}: missing")
    for entry in request.outputs:
        if entry.name != OUTPUT:
            raise RequestError(f"output {entry.name}: there is none of that name, wanted {OUTPUT}")
    given = {
        name: getattr(parameter, parameter.WhichOneof("parameter_choice") or "string_param")
        for name, parameter in request.parameters.items()
        if not name.startswith(_OF_TRITON)
    }
    given |= _object(texts.get(SAMPLING, "{}"))
    if "details" in given:
        raise RequestError("parameters.details: found it in a request by gRPC, wanted it over HTTP, or not at all")
    return GenerateRequest(request.id, texts[INPUT], parse_parameters(given))


def encode(request: GenerateRequest, text: str, finish_reason: str | None, model: str, version: str) -> Any:
    """One answer; `finish_reason` None: others follow."""
    content = text.encode()
    answer = MESSAGES["ModelInferResponse"](
        model_name=model,
        model_version=version,
        id=request.id,
        raw_output_contents=[_LENGTH.pack(len(content)) + content],
    )
    answer.outputs.add(name=OUTPUT, datatype="BYTES", shape=[1])
    answer.parameters["triton_final_response"].bool_param = finish_reason is not None
    if finish_reason is not None:
        answer.parameters["finish_reason"].string_param = finish_reason
    return answer


def _texts(request: Any) -> dict[str, str]:
    """The inputs by name."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"raw_input_contents: found {len(raw)}, wanted {len(request.inputs)}, one for each input")
    found: dict[str, str] = {}
    for number, entry in enumerate(request.inputs):
        if entry.name not in (INPUT, SAMPLING):
            raise RequestError(f"input {entry.name}: there is none of that name, wanted {INPUT} and {SAMPLING}")
        if entry.name in found:
            raise RequestError(f"input {entry.name}: given twice")
        contents = _elements(entry.name, raw[number]) if raw else list(entry.contents.bytes_contents)
        found[entry.name] = _text(entry, contents)
    return found


def _text(entry: Any, contents: list[bytes]) -> str:
    if entry.datatype != "BYTES" or any(length != 1 for length in entry.shape):
        found = f"{entry.datatype} {list(entry.shape)}"
        raise RequestError(f"input {entry.name}: found {found}, wanted one element: BYTES [1]")
    if len(contents) != 1:
        raise RequestError(f"input {entry.name}: its contents have {len(contents)} elements, wanted one")
    try:
        return contents[0].decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"input {entry.name}: it is no UTF-8 text: {error}") from None


def _elements(name: str, raw: bytes) -> list[bytes]:
    found = []
    while raw:
        if len(raw) < _LENGTH.size or len(raw) < _LENGTH.size + _LENGTH.unpack_from(raw)[0]:
            raise RequestError(
                f"input {name}: its bytes end within an element, wanted a length of four bytes before it"
            )
        end = _LENGTH.size + _LENGTH.unpack_from(raw)[0]
        found.append(raw[_LENGTH.size : end])
        raw = raw[end:]
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"input {SAMPLING}: it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RequestError(f"input {SAMPLING}: found {text}, wanted a JSON object")
    return found
