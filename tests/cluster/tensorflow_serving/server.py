#!/usr/bin/env python3
"""A STAND-IN for TensorFlow's model server (tensorflow_model_server), which no package registry has.

It takes the flags that Muster writes and no others, reads the same configuration by the real messages, serves a real
SavedModel by TensorFlow, and answers as the real one does in release 2.19: REST, gRPC and metrics. Like that one it
listens once the model is loaded, waits for one that it does not find, tries again to load one as often as it is told,
and has no handler for SIGTERM. It computes each request by itself: what it is told of batching it says in its log.
"""

import argparse
import collections
import json
import re
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import configs
import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

MODEL = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata|:predict)?")
METRIC = ":tensorflow:serving:request_count"
STATUS = {grpc.StatusCode.INVALID_ARGUMENT: 400, grpc.StatusCode.NOT_FOUND: 404}


class Refused(Exception):  # noqa: N818
    """An answer that is none."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Served:
    """The newest version of the one model."""

    def __init__(self, name: str, base_path: Path) -> None:
        self.name = name
        while not (found := [path for path in base_path.glob("*") if path.name.isdecimal()]):
            print(f"No versions of servable {name} found under base path {base_path}.", file=sys.stderr)
            time.sleep(1)
        directory = max(found, key=lambda path: int(path.name))
        self.version = int(directory.name)
        self._loaded = tf.saved_model.load(str(directory))
        saved = SavedModel.FromString((directory / "saved_model.pb").read_bytes())
        self._described = saved.meta_graphs[0].signature_def
        self.counted: collections.Counter[str] = collections.Counter()

    def metrics(self) -> str:
        counted = [f'{METRIC}{{model_name="{self.name}",status="{code}"}} {n}' for code, n in self.counted.items()]
        return "\n".join([f"# TYPE {METRIC} counter", *counted, ""])

    def spec(self, name: str, version: int | None, signature: str = "") -> model_pb2.ModelSpec:
        if name != self.name or version not in {None, self.version}:
            wanted = f"Specific({name}, {version})" if version is not None else f"Latest({name})"
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")
        return model_pb2.ModelSpec(name=name, version={"value": self.version}, signature_name=signature)

    def status(self) -> get_model_status_pb2.GetModelStatusResponse:
        answer = get_model_status_pb2.GetModelStatusResponse()
        answer.model_version_status.add(version=self.version, state="AVAILABLE", status={})
        return answer

    def signatures(self) -> get_model_metadata_pb2.SignatureDefMap:
        return get_model_metadata_pb2.SignatureDefMap(signature_def=self._described)

    def inputs(self, signature: str) -> dict[str, np.dtype]:
        """Return their names and types."""
        described = self._signature(signature).inputs
        return {name: tf.as_dtype(described[name].dtype).as_numpy_dtype for name in described}

    def _signature(self, name: str) -> SignatureDef:
        if name not in self._described:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found')
        return self._described[name]

    def predict(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raises Refused where the inputs are not those of the signature."""
        self._signature(signature)
        try:
            tensors = {name: tf.constant(value) for name, value in inputs.items()}
            return {name: one.numpy() for name, one in self._loaded.signatures[signature](**tensors).items()}
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None


def by_rest(served: Served, method: str, path: str, body: bytes) -> dict[str, Any]:
    """Return what REST says, in Python's own types."""
    found = MODEL.fullmatch(path)
    name, version, asked_for = found.groups() if found else ("", None, None)
    if found is None or (asked_for == ":predict") != (method == "POST"):
        code = grpc.StatusCode.INVALID_ARGUMENT if path.startswith("/v1/") else grpc.StatusCode.NOT_FOUND
        raise Refused(code, f"Malformed request: {method} {path}")
    spec = served.spec(name, int(version) if version else None)
    if asked_for == ":predict":
        try:
            return predicted(served, json.loads(body))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Failed to process the request: {error!r}") from None
    if asked_for == "/metadata":
        return {"model_spec": described(spec), "metadata": {"signature_def": described(served.signatures())}}
    return described(served.status())


def predicted(served: Served, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs as the inputs came: row by row (`instances`) or one after the other (`inputs`)."""
    signature = asked.get("signature_name") or "serving_default"
    types, by_row = served.inputs(signature), "instances" in asked
    given = asked["instances" if by_row else "inputs"]
    if by_row and isinstance(given[0], dict):
        given = {name: [row[name] for row in given] for name in types}
    named = given if isinstance(given, dict) else dict.fromkeys(types, given)
    arrays = {name: np.array(named[name], dtype) for name, dtype in types.items()}
    outputs = {name: value.tolist() for name, value in served.predict(signature, arrays).items()}
    if len(outputs) == 1:
        (said,) = outputs.values()
    elif by_row:
        said = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    else:
        said = outputs
    return {"predictions" if by_row else "outputs": said}


def described(message: Message) -> dict[str, Any]:
    return dict(
        json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )


def rest(served: Served, metrics: str | None) -> type[BaseHTTPRequestHandler]:
    """`metrics`: the path at which they are told."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == metrics:
                self._say(200, served.metrics(), "text/plain")
            else:
                self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["content-length"] or 0)))

        def _answer(self, body: bytes) -> None:
            try:
                status, said = 200, by_rest(served, self.command, self.path, body)
                served.counted["OK"] += 1
            except Refused as refused:
                status, said = STATUS[refused.code], {"error": str(refused)}
                served.counted[refused.code.name] += 1
            self._say(status, json.dumps(said, indent=1), "application/json")

        def _say(self, status: int, text: str, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing of requests, like the real one."""

    return Handler


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, served: Served) -> None:
        self._served = served

    def Predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> object:  # noqa: N802
        asked = request.model_spec
        try:
            signature = asked.signature_name or "serving_default"
            spec = self._served.spec(asked.name, asked.version.value if asked.HasField("version") else None, signature)
            inputs = {name: tf.make_ndarray(one) for name, one in request.inputs.items()}
            outputs = self._served.predict(signature, inputs)
        except Refused as refused:
            self._served.counted[refused.code.name] += 1
            context.abort(refused.code, str(refused))
        self._served.counted["OK"] += 1
        tensors = {name: tf.make_tensor_proto(value) for name, value in outputs.items()}
        return predict_pb2.PredictResponse(model_spec=spec, outputs=tensors)


class Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, served: Served) -> None:
        self._served = served

    def GetModelStatus(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802
        if request.model_spec.name != self._served.name:
            message = f"Could not find any versions of model {request.model_spec.name}"
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        return self._served.status()


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tensorflow_model_server", description=__doc__)
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--rest_api_port", type=int, required=True)
    parser.add_argument("--model_config_file", type=Path, required=True)
    parser.add_argument("--monitoring_config_file", type=Path, required=True)
    parser.add_argument("--max_num_load_retries", type=int, default=5)
    parser.add_argument("--grpc_channel_arguments", default="")
    parser.add_argument("--enable_batching", action="store_true")
    parser.add_argument("--batching_parameters_file", type=Path)
    return parser.parse_args()


def load(name: str, base_path: Path, tries: int) -> Served:
    for left in reversed(range(tries)):
        try:
            return Served(name, base_path)
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not load
            why = " ".join(str(error).split())
        if left:
            time.sleep(60)
    trouble = f"1 servable(s) did not become available: {{{{name: {name}}} due to error: {why}}}, }}"
    print(f"Failed to start server. Error: UNKNOWN: {trouble}")
    sys.exit(255)


def main() -> None:
    given = flags()
    (model,) = configs.read("models", given.model_config_file).model_config_list.config
    assert model.model_platform == "tensorflow", model
    monitoring = configs.read("monitoring", given.monitoring_config_file).prometheus_config
    if given.enable_batching:
        batching = configs.read("batching", given.batching_parameters_file)
        print(f"stand-in: batching is asked for, and not done: {json_format.MessageToDict(batching)}")
    served = load(model.name, Path(model.base_path), given.max_num_load_retries + 1)
    options = [tuple(option.split("=")) for option in given.grpc_channel_arguments.split(",") if option]
    by_grpc = grpc.server(futures.ThreadPoolExecutor(8), options=[(name, int(value)) for name, value in options])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(served), by_grpc)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(served), by_grpc)
    by_grpc.add_insecure_port(f"0.0.0.0:{given.port}")
    by_grpc.start()
    metrics = (monitoring.path or "/monitoring/prometheus/metrics") if monitoring.enable else None
    ThreadingHTTPServer.request_queue_size = 128
    http = ThreadingHTTPServer(("", given.rest_api_port), rest(served, metrics))
    threading.Thread(target=http.serve_forever).start()
    print(f"stand-in: version {served.version} of {served.name} is served at {given.port} and {given.rest_api_port}")
    by_grpc.wait_for_termination()


if __name__ == "__main__":
    main()
