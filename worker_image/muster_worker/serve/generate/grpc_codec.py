"""Requests for text and answers to them over gRPC.

The last answer has `finish_reason`, and `triton_final_response`, by which Triton's clients know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster_worker.serve.errors import RequestError
from muster_worker.serve.generate import tensors
from muster_worker.serve.grpc_messages import MESSAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster_worker.serve.generate.request import GenerateRequest
    from muster_worker.serve.model import Signature


def is_for_text(request: Any, signature: Signature) -> bool:
    return tensors.are_asked([entry.name for entry in request.inputs], signature)


def decode(request: Any) -> GenerateRequest:
    """Raises RequestError."""
    parameters = {
        name: getattr(parameter, parameter.WhichOneof("parameter_choice") or "string_param")
        for name, parameter in request.parameters.items()
    }
    outputs = [entry.name for entry in request.outputs]
    return tensors.request_of(request.id, _tensors(request), outputs, parameters)


def encode(request: GenerateRequest, text: str, finish_reason: str | None, model: str, version: str) -> Any:
    """One answer; `finish_reason` None: others follow."""
    answer = MESSAGES["ModelInferResponse"](
        model_name=model, model_version=version, id=request.id, raw_output_contents=[tensors.packed(text)]
    )
    answer.outputs.add(name=tensors.OUTPUT, datatype=tensors.BYTES, shape=[1])
    answer.parameters["triton_final_response"].bool_param = finish_reason is not None
    if finish_reason is not None:
        answer.parameters["finish_reason"].string_param = finish_reason
    return answer


def _tensors(request: Any) -> Iterator[tensors.TextTensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"raw_input_contents: found {len(raw)}, wanted {len(request.inputs)}, one for each input")
    for number, entry in enumerate(request.inputs):
        contents = tensors.elements(entry.name, raw[number]) if raw else list(entry.contents.bytes_contents)
        yield tensors.TextTensor(entry.name, entry.datatype, entry.shape, contents)
