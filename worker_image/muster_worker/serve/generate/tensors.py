"""Requests for text as the protocol's tensors, as Triton's backends of language models have them.

`text_input` goes in and `text_output` comes out, each one element of BYTES. Whatever else is asked for is in the
request's parameters, or is a JSON object in the input `sampling_parameters`: over gRPC parameters are no lists, and
some clients have none that are floating point numbers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from muster_worker.serve.errors import RequestError
from muster_worker.serve.generate.parameters import parse_parameters
from muster_worker.serve.generate.request import GenerateRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from muster_worker.serve.model import Signature

INPUT, SAMPLING, OUTPUT = "text_input", "sampling_parameters", "text_output"
BYTES = "BYTES"

_OF_THE_PROTOCOL = ("triton_", "binary_data_output")
"""So begin parameters that are about the answer's way, not about the text."""

_LENGTH = struct.Struct("<I")
"""Before each element of BYTES."""


@dataclass(frozen=True, slots=True)
class TextTensor:
    """An input; `contents`: its elements."""

    name: str
    datatype: str
    shape: Sequence[Any]
    contents: Sequence[bytes]


def are_asked(names: Iterable[object], signature: Signature) -> bool:
    """Whether that is no inference: it has the input `text_input`, which the model itself has not."""
    return INPUT in names and all(spec.name != INPUT for spec in signature.inputs)


def request_of(
    identifier: str, tensors: Iterable[TextTensor], outputs: Iterable[str], parameters: Mapping[str, Any]
) -> GenerateRequest:
    """`outputs`: the names of those that are asked for. Raises RequestError."""
    texts: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name not in (INPUT, SAMPLING):
            raise RequestError(f"input {tensor.name}: there is none of that name, wanted {INPUT} and {SAMPLING}")
        if tensor.name in texts:
            raise RequestError(f"input {tensor.name}: given twice")
        texts[tensor.name] = _text(tensor)
    if INPUT not in texts:
        raise RequestError(f"input {INPUT}: missing")
    for name in outputs:
        if name != OUTPUT:
            raise RequestError(f"output {name}: there is none of that name, wanted {OUTPUT}")
    given = {name: value for name, value in parameters.items() if not name.startswith(_OF_THE_PROTOCOL)}
    given |= _object(texts.get(SAMPLING, "{}"))
    if "details" in given:
        raise RequestError("parameters.details: found it in an inference, wanted it in POST …/generate, or not at all")
    return GenerateRequest(identifier, texts[INPUT], parse_parameters(given))


def elements(name: str, raw: bytes | memoryview) -> list[bytes]:
    """Of the input of that name, which has one at most. Raises RequestError."""
    if not raw:
        return []
    if len(raw) < _LENGTH.size or len(raw) < (end := _LENGTH.size + _LENGTH.unpack_from(raw)[0]):
        raise RequestError(f"input {name}: its bytes end within an element, wanted a length of four bytes before it")
    if len(raw) > end:
        raise RequestError(f"input {name}: its first element ends {len(raw) - end} bytes before its end, wanted one")
    return [bytes(raw[_LENGTH.size :])]


def packed(text: str) -> bytes:
    """One element."""
    content = text.encode()
    return _LENGTH.pack(len(content)) + content


def _text(tensor: TextTensor) -> str:
    if tensor.datatype != BYTES or any(length != 1 for length in tensor.shape):
        found = f"{tensor.datatype} {list(tensor.shape)}"
        raise RequestError(f"input {tensor.name}: found {found}, wanted one element: {BYTES} [1]")
    if len(tensor.contents) != 1:
        raise RequestError(f"input {tensor.name}: its contents have {len(tensor.contents)} elements, wanted one")
    try:
        return tensor.contents[0].decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"input {tensor.name}: it is no UTF-8 text: {error}") from None


def _object(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"input {SAMPLING}: it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RequestError(f"input {SAMPLING}: found {text}, wanted a JSON object")
    return found
