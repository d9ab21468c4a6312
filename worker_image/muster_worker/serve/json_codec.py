"""Requests and answers as JSON, with tensors as numbers, or as bytes behind the JSON (binary_tensor_data)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from muster_worker.serve.errors import RequestError
from muster_worker.serve.protocol import InferRequest, Wanted, input_named, ordered, wanted_outputs
from muster_worker.serve.tensors import datatype_of, to_bytes, to_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from muster_worker.serve.model import Signature


@dataclass(slots=True)
class Body:
    """What a request says, and the bytes behind it.

    `outputs`: those that it names. `binary`: whether all are to be bytes where it says nothing else of them.
    """

    id: str
    inputs: list[dict[str, Any]]
    outputs: tuple[Wanted, ...]
    parameters: dict[str, Any]
    binary: bool
    rest: bytes | memoryview

    def tensors(self) -> Iterator[tuple[dict[str, Any], bytes | memoryview | None]]:
        """Each input, with its part of the bytes where it has one. Raises RequestError."""
        rest = self.rest
        for entry in self.inputs:
            size = _parameters(entry).get("binary_data_size")
            if size is None:
                yield entry, None
                continue
            if not isinstance(size, int) or not 0 <= size <= len(rest):
                raise RequestError(f"input {entry.get('name')}: binary_data_size is {size}, {len(rest)} bytes are left")
            yield entry, rest[:size]
            rest = rest[size:]
        if len(rest):
            raise RequestError(f"the body: {len(rest)} bytes at its end belong to no input")


def parse(body: bytes, header_length: int | None) -> Body:
    """`header_length`: how many bytes of `body` are JSON, None for all. Raises RequestError."""
    if header_length is not None and not 0 <= header_length <= len(body):
        raise RequestError(f"Inference-Header-Content-Length: found {header_length}, the body has {len(body)} bytes")
    head, rest = (body, b"") if header_length is None else (body[:header_length], memoryview(body)[header_length:])
    try:
        request = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise RequestError("the body must be a JSON object")
    parameters = _parameters(request)
    binary = bool(parameters.get("binary_data_output", False))
    outputs = tuple(_asked(one, binary=binary) for one in _list(request, "outputs"))
    return Body(str(request.get("id") or ""), _list(request, "inputs"), outputs, parameters, binary, rest)


def decode(body: Body, signature: Signature) -> InferRequest:
    """Raises RequestError."""
    inputs = ordered(signature, _inputs(body, signature))
    return InferRequest(body.id, inputs, wanted_outputs(signature, body.outputs, binary=body.binary), body.parameters)


def encode(request: InferRequest, outputs: dict[str, Tensor], model: str, version: str) -> tuple[bytes, int | None]:
    """The body, and how many bytes of it are JSON where others follow."""
    described, contents = [], []
    for wanted in request.outputs:
        tensor = outputs[wanted.name]
        output: dict[str, Any] = {"name": wanted.name, "datatype": datatype_of(tensor), "shape": list(tensor.shape)}
        if wanted.binary:
            contents.append(to_bytes(tensor))
            output["parameters"] = {"binary_data_size": len(contents[-1])}
        else:
            output["data"] = to_numbers(tensor)
        described.append(output)
    answer = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        answer["id"] = request.id
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([head, *contents]), len(head)) if contents else (head, None)


def _inputs(body: Body, signature: Signature) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}
    for entry, part in body.tensors():
        name = entry.get("name")
        spec = signature.inputs[input_named(signature, name, given)]
        shape = entry.get("shape")
        if not isinstance(shape, list):
            raise RequestError(f"input {name}: its shape is {shape}, wanted a list")
        spec.check(str(entry.get("datatype")), shape)
        if part is not None:
            given[spec.name] = spec.from_bytes(shape, part)
        elif "data" in entry:
            given[spec.name] = spec.from_json(shape, entry["data"])
        else:
            raise RequestError(f"input {name}: it has neither data nor binary_data_size")
    return given


def _asked(entry: dict[str, Any], *, binary: bool) -> Wanted:
    return Wanted(str(entry.get("name")), bool(_parameters(entry).get("binary_data", binary)))


def _list(request: dict[str, Any], field: str) -> list[dict[str, Any]]:
    found = request.get(field) or []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise RequestError(f"{field}: wanted a list of objects")
    return found


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("parameters") or {}
    if not isinstance(found, dict):
        raise RequestError("parameters: wanted an object")
    return found
