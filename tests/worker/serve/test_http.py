"""The protocol over HTTP: every path, and a sentence for every request that cannot be answered."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from muster_worker.serve.batcher import Batching
from muster_worker.serve.http import Application
from muster_worker.serve.metrics import Metrics
from muster_worker.serve.model import Model, ServedModel
from muster_worker.serve.service import Limits, Service

POINT = {"name": "points", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


class Asked:
    """An application and what it answers, each question in the same event loop."""

    def __init__(self, directory=None, limits=Limits()):  # noqa: B008 - it is frozen
        self._loop = asyncio.new_event_loop()
        self.service = self._run(self._make(directory, limits))
        self._application = Application(self.service)

    async def _make(self, directory, limits):
        service = Service("affine", limits, Metrics())
        if directory is not None:
            service.serve(ServedModel.load(directory, torch.device("cpu")), 0.0)
        return service

    def _run(self, work):
        return self._loop.run_until_complete(work)

    def __call__(self, method, path, body=b"", headers=(), pieces=None):
        """Status, headers, and the body: parsed where it is JSON alone."""
        sent = []
        parts = pieces or [body]
        messages = [
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, start=1)
        ]

        async def receive():
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": [*headers]}
        self._run(self._application(scope, receive, send))
        start, end = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        assert int(found["content-length"]) == len(end["body"])
        text = end["body"]
        return start["status"], found, json.loads(text) if found["content-type"] == "application/json" else text

    def infer(self, **request):
        return self("POST", "/v2/models/affine/infer", json.dumps(request).encode())

    def close(self):
        self.service.close()
        self._loop.close()


@pytest.fixture
def asked(affine):
    application = Asked(affine)
    yield application
    application.close()


@pytest.fixture
def empty():
    application = Asked()
    yield application
    application.close()


def test_it_says_what_it_is(asked):
    status, _, answer = asked("GET", "/v2")
    assert (status, answer["name"], answer["extensions"]) == (200, "muster", ["binary_tensor_data", "generate"])
    version = asked.service.model.version
    for path in ("/v2/models/affine", f"/v2/models/affine/versions/{version}"):
        status, _, answer = asked("GET", path)
        assert status == 200
        assert answer == {
            "name": "affine",
            "versions": [version],
            "platform": "pytorch",
            "inputs": [{"name": "points", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}],
        }


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6, 7, 8], [[1, 2, 3, 4], [5, 6, 7, 8]]])
def test_it_answers_in_numbers(asked, data):
    status, headers, answer = asked.infer(id="seven", inputs=[POINT | {"shape": [2, 4], "data": data}])
    assert (status, headers["content-type"]) == (200, "application/json")
    assert answer == {
        "id": "seven",
        "model_name": "affine",
        "model_version": asked.service.model.version,
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [2, 2], "data": [10.0, 11.0, 26.0, 27.0]}],
    }


def test_it_answers_in_bytes(asked):
    tensor = {"name": "points", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = head + struct.pack("<4f", 1, 2, 3, 4)
    length = (b"inference-header-content-length", str(len(head)).encode())
    status, headers, answer = asked("POST", "/v2/models/affine/infer", headers=[length], pieces=[body[:50], body[50:]])
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    size = int(headers["inference-header-content-length"])
    (output,) = json.loads(answer[:size])["outputs"]
    assert output["parameters"] == {"binary_data_size": 8}
    assert struct.unpack("<2f", answer[size:]) == (10.0, 11.0)


def test_several_inputs_in_any_order_and_the_outputs_that_are_asked_for(two):
    asked = Asked(two)
    first = {"name": "first", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]}
    second = {"name": "second", "datatype": "INT64", "shape": [1, 2], "data": [0, 5]}
    _, _, answer = asked.infer(inputs=[second, first])
    assert [output["data"] for output in answer["outputs"]] == [[1, 7], [True, False]]
    _, _, answer = asked.infer(inputs=[first, second], outputs=[{"name": "larger"}])
    assert [output["name"] for output in answer["outputs"]] == ["larger"]
    status, _, answer = asked.infer(inputs=[first, second | {"shape": [2, 2], "data": [1, 2, 3, 4]}])
    assert (status, answer["error"]) == (400, "inputs: they have unequal numbers of samples (first 1, second 2)")
    asked.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "wanted"),
    [
        ("GET", "/", 404, "/: not here; GET /v2/models/affine says what can be asked"),
        ("GET", "/v2/models/other", 404, "model other: not here, affine is"),
        ("POST", "/v2/models/other/infer", 404, "model other: not here, affine is"),
        ("GET", "/v2/models/affine/versions/7", 404, "version 7 of affine: not here, "),
        ("POST", "/v2/models/affine/versions/7/infer", 404, "version 7 of affine: not here, "),
        ("GET", "/v2/models/affine/nothing", 404, "/v2/models/affine/nothing: not here"),
        ("GET", "/v2/models/affine/infer", 405, "/v2/models/affine/infer: found GET, wanted POST"),
        ("POST", "/v2/health/ready", 405, "/v2/health/ready: found POST, wanted GET"),
    ],
)
def test_what_is_not_there_is_named(asked, method, path, status, wanted):
    found, _, answer = asked(method, path)
    assert found == status
    assert answer["error"].startswith(wanted)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"{", "the body is not JSON: "),
        (b"[]", "the body must be a JSON object"),
        ({}, "input points: missing"),
        ({"inputs": 1}, "inputs: wanted a list of objects"),
        ({"inputs": [1]}, "inputs: wanted a list of objects"),
        ({"inputs": [POINT | {"name": "pts"}]}, "input pts: the model has none of that name, it has points"),
        ({"inputs": [POINT, POINT]}, "input points: given twice"),
        ({"inputs": [POINT | {"shape": 4}]}, "input points: its shape is 4, wanted a list"),
        ({"inputs": [POINT | {"shape": [True, 4]}]}, "input points: its shape is [True, 4], wanted [-1, 4]"),
        ({"inputs": [POINT | {"datatype": "FP64"}]}, "input points: its datatype is FP64, wanted FP32"),
        ({"inputs": [POINT | {"shape": [2, 4]}]}, "input points: its data has the shape [4], wanted [2, 4]"),
        ({"inputs": [POINT | {"parameters": 1}]}, "parameters: wanted an object"),
        (
            {"inputs": [{"name": "points", "datatype": "FP32", "shape": [1, 4]}]},
            "input points: it has neither data nor binary_data_size",
        ),
        (
            {"inputs": [POINT | {"parameters": {"binary_data_size": 16}}]},
            "input points: binary_data_size is 16, 0 bytes are left",
        ),
        (
            {"inputs": [POINT], "outputs": [{"name": "classes"}]},
            "output classes: the model has none of that name, it has output",
        ),
        ({"inputs": [POINT], "outputs": [{"name": "output"}] * 2}, "output output: asked for twice"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_does(asked, body, wanted):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, answer = asked("POST", "/v2/models/affine/infer", text)
    assert status == 400
    assert answer["error"].startswith(wanted)


@pytest.mark.parametrize(
    ("length", "wanted"),
    [
        (b"x", "inference-header-content-length: found 'x', wanted a number"),
        (b"9" * 5000, "inference-header-content-length: found '9999999999999999999', wanted a number of bytes"),
        (b"9999", "Inference-Header-Content-Length: found 9999, the body has "),
    ],
)
def test_a_wrong_length_of_the_header_is_named(asked, length, wanted):
    headers = [(b"inference-header-content-length", length)]
    status, _, answer = asked("POST", "/v2/models/affine/infer", b'{"inputs": []}', headers)
    assert status == 400
    assert answer["error"].startswith(wanted)


def test_bytes_that_belong_to_no_input_are_refused(asked):
    head = json.dumps({"inputs": [POINT]}).encode()
    headers = [(b"inference-header-content-length", str(len(head)).encode())]
    status, _, answer = asked("POST", "/v2/models/affine/infer", head + b"more", headers)
    assert (status, answer["error"]) == (400, "the body: 4 bytes at its end belong to no input")


INFER = json.dumps({"inputs": [POINT]}).encode()


@pytest.mark.parametrize(
    ("encoding", "compress"), [(b"gzip", gzip.compress), (b"Deflate", zlib.compress), (b"identity", bytes)]
)
def test_a_body_may_come_compressed(asked, encoding, compress):
    headers = [(b"content-encoding", encoding)]
    status, _, answer = asked("POST", "/v2/models/affine/infer", compress(INFER), headers)
    assert (status, answer["outputs"][0]["data"]) == (200, [10.0, 11.0])


@pytest.mark.parametrize(
    ("encoding", "body", "status", "wanted"),
    [
        (b"br", INFER, 415, "Content-Encoding: found br, wanted gzip or deflate, or none"),
        (b"gzip", INFER, 400, "the body is not what Content-Encoding says, which is gzip: "),
        (b"gzip", gzip.compress(INFER)[:-1], 400, "the body: its gzip breaks off, or something follows it"),
        (b"gzip", gzip.compress(INFER) + b"a", 400, "the body: its gzip breaks off, or something follows it"),
        (b"gzip", gzip.compress(bytes(65 << 20)), 413, "the body: more than 67108864 bytes"),
    ],
)
def test_a_body_that_is_not_compressed_as_it_says_is_refused(asked, encoding, body, status, wanted):
    found, _, answer = asked("POST", "/v2/models/affine/infer", body, [(b"content-encoding", encoding)])
    assert found == status
    assert answer["error"].startswith(wanted)


def test_a_body_that_is_too_large_is_refused_before_all_of_it_is_read(affine):
    asked = Asked(affine, Limits(request_bytes=100))
    status, _, answer = asked("POST", "/v2/models/affine/infer", b"x" * 101, [(b"content-length", b"101")])
    assert (status, answer["error"]) == (413, "the body: more than 100 bytes")
    status, _, _ = asked("POST", "/v2/models/affine/infer", pieces=[b"x" * 60, b"x" * 60, b"x" * 60])
    assert status == 413
    asked.close()


def test_without_a_model_it_lives_and_says_why_it_is_not_ready(empty):
    assert empty("GET", "/v2/health/live")[::2] == (200, {"live": True})
    for method, path in (
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/affine"),
        ("GET", "/v2/models/affine/ready"),
        ("POST", "/v2/models/affine/infer"),
    ):
        status, headers, answer = empty(method, path)
        assert (status, headers["retry-after"], answer["error"]) == (503, "1", "the model is being loaded")


def test_while_it_leaves_it_is_not_ready_and_answers_and_ends_connections(asked):
    assert asked("GET", "/v2/health/ready")[::2] == (200, {"ready": True})
    assert asked("GET", "/v2/models/affine/ready")[::2] == (200, {"name": "affine", "ready": True})
    asked.service.draining = True
    assert asked("GET", "/v2/health/ready")[::2] == (503, {"error": "leaving: other replicas answer"})
    assert asked("GET", "/v2/health/live")[0] == 200
    status, headers, answer = asked.infer(inputs=[POINT])
    assert (status, headers["connection"], answer["outputs"][0]["data"]) == (200, "close", [10.0, 11.0])


def test_a_model_that_hangs_ends_the_request_readiness_and_life(affine):
    class Hanging(Model):
        signature = ServedModel.load(affine, torch.device("cpu")).signature
        version = "1"

        @staticmethod
        def compute(inputs):
            release.wait(10)
            return [inputs[0][:, :2]]

    import threading

    release = threading.Event()
    asked = Asked(None, Limits(request_seconds=0.05, batching=Batching()))

    async def serve():
        asked.service.serve(Hanging(), 1.0)

    asked._run(serve())
    status, _, answer = asked.infer(inputs=[POINT])
    assert (status, answer["error"]) == (504, "no answer within 0.05 s")
    assert asked("GET", "/v2/health/ready")[0] == 503
    asked._run(asyncio.sleep(0.06))
    assert asked("GET", "/v2/health/live")[::2] == (503, {"error": "a computation hangs"})
    release.set()
    asked._run(asyncio.sleep(0.05))
    assert asked("GET", "/v2/health/ready")[0] == 200
    asked.close()


def test_a_model_that_fails_says_so_in_its_own_words(affine):
    class Failing:
        signature = ServedModel.load(affine, torch.device("cpu")).signature
        version = "1"

        def __call__(self, points):
            raise ValueError("the points are collinear")

    asked = Asked()

    async def serve():
        failing = Failing()
        asked.service.serve(ServedModel(failing.signature, failing, torch.device("cpu"), "0" * 64), 0.0)

    asked._run(serve())
    status, _, answer = asked.infer(inputs=[POINT])
    assert (status, answer["error"]) == (500, "the model failed: ValueError: the points are collinear")
    asked.close()


def test_it_counts(asked):
    asked.infer(inputs=[POINT])
    asked.infer(inputs=[])
    _, headers, text = asked("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert found["muster_serve_requests_total", "200", "http"] == 1
    assert found["muster_serve_requests_total", "400", "http"] == 1
    assert found["muster_serve_request_seconds_count", "http"] == 2
    assert found["muster_serve_batch_samples_count",] == 1
    assert found["muster_serve_ready",] == 1


def test_it_tells_the_operator_how_it_is(asked, empty):
    for _ in range(3):
        asked.infer(inputs=[POINT])
    asked._run(asyncio.sleep(1.0))
    _, _, state = asked("GET", "/state")
    assert (state["ready"], state["reason"], state["errorRate"]) == (True, None, 0.0)
    assert state["model"] == {"version": asked.service.model.version, "sha256": asked.service.model.sha256}
    assert state["requestsPerSecond"] > 0
    assert (state["requests"], state["failedRequests"]) == (3, 0)
    assert 0 < state["latencyP50"] <= state["latencyP99"] < 1
    _, _, state = empty("GET", "/state")
    assert (state["ready"], state["reason"], state["model"]) == (False, "the model is being loaded", None)
    assert (state["requestsPerSecond"], state["latencyP99"]) == (0.0, None)


def test_a_client_that_does_not_wait_is_counted_and_is_no_error_of_the_model(asked):
    with pytest.raises(asyncio.CancelledError), asked.service.counting("grpc", lambda status: f"code {status}"):
        raise asyncio.CancelledError
    asked._run(asyncio.sleep(1.0))
    assert asked.service.state()["errorRate"] == 0.0
    assert 'muster_serve_requests_total{code="code 499",protocol="grpc"} 1.0' in asked("GET", "/metrics")[2].decode()
