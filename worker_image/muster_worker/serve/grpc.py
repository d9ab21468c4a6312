"""The Open Inference Protocol v2 over gRPC: `inference.GRPCInferenceService`."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import grpc

import muster_worker
from muster_worker.serve.errors import RequestError
from muster_worker.serve.generate import grpc_codec as text_codec
from muster_worker.serve.grpc_messages import MESSAGES, PACKAGE
from muster_worker.serve.grpc_stream import answered
from muster_worker.serve.protocol import (
    EXTENSIONS,
    PLATFORM,
    SERVER,
    InferRequest,
    Wanted,
    input_named,
    ordered,
    properties_of,
    wanted_outputs,
)
from muster_worker.serve.service import CLIENT_GONE
from muster_worker.serve.tensors import datatype_of, to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from torch import Tensor

    from muster_worker.serve.model import Model, Signature
    from muster_worker.serve.service import Service

log = logging.getLogger(__name__)

_CODES = {
    200: grpc.StatusCode.OK,
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CLIENT_GONE: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_CONNECTION_AGE = 5_000
"""Milliseconds after which a client is asked to connect anew: a Service balances connections, not requests.

So short that nobody is left when a replica that was told to leave goes. A server that stops tells its clients too, but
fails what they had sent before they heard of it; one that goes on while they change their connection does not.
"""


async def start(service: Service, host: str, port: int, *, beside: bool = False) -> grpc.aio.Server:
    """A server that answers there (`host` empty: everywhere); raises RuntimeError where it cannot listen.

    `beside`: somebody listens there already, who lets it.
    """
    limit = service.limits.request_bytes
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_connection_age_ms", _CONNECTION_AGE),
            ("grpc.so_reuseport", int(beside)),
        ]
    )
    calls = _Calls(service)
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            _answering(getattr(calls, method)),
            request_deserializer=MESSAGES[f"{name}Request"].FromString,
            response_serializer=MESSAGES[f"{name}Response"].SerializeToString,
        )
        for name, method in _METHODS.items()
    }
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        calls.model_stream_infer,
        request_deserializer=MESSAGES["ModelInferRequest"].FromString,
        response_serializer=MESSAGES["ModelStreamInferResponse"].SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(f"{PACKAGE}.GRPCInferenceService", handlers),)
    )
    server.add_insecure_port(f"[{host or '::'}]:{port}" if not host or ":" in host else f"{host}:{port}")
    await server.start()
    return server


_METHODS = {
    "ServerLive": "server_live",
    "ServerReady": "server_ready",
    "ModelReady": "model_ready",
    "ServerMetadata": "server_metadata",
    "ModelMetadata": "model_metadata",
    "ModelInfer": "model_infer",
}


def _answering(method: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    async def answer(request: Any, context: Any) -> Any:
        try:
            return await method(request)
        except RequestError as error:
            await context.abort(_CODES[error.status], str(error))

    return answer


class _Calls:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def server_live(self, _: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=self._service.live)

    async def server_ready(self, _: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=self._service.ready)

    async def model_ready(self, request: Any) -> Any:
        self._service.check(request.name, request.version)
        return MESSAGES["ModelReadyResponse"](ready=self._service.ready)

    async def server_metadata(self, _: Any) -> Any:
        return MESSAGES["ServerMetadataResponse"](name=SERVER, version=muster_worker.__version__, extensions=EXTENSIONS)

    async def model_metadata(self, request: Any) -> Any:
        self._service.check(request.name, request.version)
        model = self._service.model
        answer = MESSAGES["ModelMetadataResponse"](
            name=request.name, versions=[model.version], platform=PLATFORM, properties=properties_of(model)
        )
        for specs, described in ((model.signature.inputs, answer.inputs), (model.signature.outputs, answer.outputs)):
            for spec in specs:
                described.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return answer

    async def model_infer(self, request: Any) -> Any:
        with self._service.counting("grpc", lambda status: _CODES[status].name):
            return await self._infer(request)

    async def model_stream_infer(self, _: Any, context: Any) -> AsyncGenerator[Any, None]:
        async with contextlib.aclosing(answered(context, self._answers, self._service.stopping)) as answers:
            async for answer in answers:
                yield answer

    async def _answers(self, request: Any) -> AsyncGenerator[Any, None]:
        """Within a stream: an error is of one request, and others go on."""
        kind = MESSAGES["ModelStreamInferResponse"]
        try:
            with self._service.counting("grpc", lambda status: _CODES[status].name):
                async with contextlib.aclosing(self._streamed(request)) as answers:
                    async for answer in answers:
                        yield kind(infer_response=answer)
        except RequestError as error:
            message = str(error)
        except Exception:
            log.exception("ModelStreamInfer")
            message = "an error of the server: its log has it"
        else:
            return
        yield kind(error_message=message, infer_response=MESSAGES["ModelInferResponse"](id=request.id))

    async def _streamed(self, request: Any) -> AsyncGenerator[Any, None]:
        """Of a text, what each token has added; of an inference, its one answer."""
        service = self._service
        model = await self._model(request)
        if not text_codec.is_for_text(request, model.signature):
            yield await self._infer(request)
            return
        generations, asked = service.generations, text_codec.decode(request)
        async with contextlib.aclosing(generations.generate(asked.text, asked.parameters)) as pieces:
            async for piece in pieces:
                if piece.text or piece.finish_reason:
                    yield text_codec.encode(asked, piece.text, piece.finish_reason, request.model_name, model.version)

    async def _infer(self, request: Any) -> Any:
        service = self._service
        model = await self._model(request)
        if text_codec.is_for_text(request, model.signature):
            generations, text = service.generations, text_codec.decode(request)
            pieces = [piece async for piece in generations.generate(text.text, text.parameters)]
            whole = "".join(piece.text for piece in pieces)
            return text_codec.encode(text, whole, pieces[-1].finish_reason, request.model_name, model.version)
        asked = decode(request, model.signature)
        return encode(asked, await service.infer(asked), request.model_name, model.version)

    async def _model(self, request: Any) -> Model:
        await self._service.until_loaded()
        self._service.check(request.model_name, request.model_version)
        return self._service.model


def decode(request: Any, signature: Signature) -> InferRequest:
    """Raises RequestError."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"raw_input_contents: found {len(raw)}, wanted {len(request.inputs)}, one for each input")
    given: dict[str, Tensor] = {}
    for number, entry in enumerate(request.inputs):
        spec = signature.inputs[input_named(signature, entry.name, given)]
        shape = list(entry.shape)
        spec.check(entry.datatype, shape)
        if raw:
            given[spec.name] = spec.from_bytes(shape, raw[number])
        elif spec.datatype not in _CONTENTS:
            raise RequestError(f"input {spec.name}: {spec.datatype} has no contents, send raw_input_contents")
        else:
            given[spec.name] = spec.from_json(shape, list(getattr(entry.contents, _CONTENTS[spec.datatype])))
    asked = tuple(Wanted(entry.name) for entry in request.outputs)
    return InferRequest(request.id, ordered(signature, given), wanted_outputs(signature, asked, binary=True))


def encode(request: InferRequest, outputs: dict[str, Tensor], model: str, version: str) -> Any:
    """Always in raw contents, as Triton answers."""
    answer = MESSAGES["ModelInferResponse"](model_name=model, model_version=version, id=request.id)
    for wanted in request.outputs:
        tensor = outputs[wanted.name]
        answer.outputs.add(name=wanted.name, datatype=datatype_of(tensor), shape=tensor.shape)
        answer.raw_output_contents.append(to_bytes(tensor))
    return answer
