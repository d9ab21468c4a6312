"""The protocol over gRPC, asked by Triton's client."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from muster_worker.serve.errors import RequestError
from muster_worker.serve.grpc import decode
from muster_worker.serve.grpc_messages import MESSAGES
from muster_worker.serve.grpc_stream import answered
from muster_worker.serve.model import ServedModel
from muster_worker.train.export import Trained, export_model
from tests.worker.serve.conftest import ORIGIN


@pytest.fixture(scope="module")
def asked(serve_for_module, affine):
    served = serve_for_module(affine, "--name", "sums", "--max-request-bytes", "10000")
    with contextlib.closing(served.grpc_client()) as client:
        yield client


def points(array, name="points", datatype="FP32"):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return [tensor]


def test_tritons_client_gets_what_it_asks_for(asked):
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready("sums")
    assert list(asked.get_server_metadata().extensions) == ["binary_tensor_data", "generate"]
    described = asked.get_model_metadata("sums")
    (tensor,) = described.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("points", "FP32", [-1, 4])
    array = np.random.default_rng(0).random((20, 4), dtype=np.float32)
    answer = asked.infer("sums", points(array), request_id="7", outputs=[triton.InferRequestedOutput("output")])
    assert answer.get_response().id == "7"
    assert answer.get_response().model_version == described.versions[0]
    total = array.sum(axis=1)
    np.testing.assert_allclose(answer.as_numpy("output"), np.stack([total, total + 1], axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "array", "code", "wanted"),
    [
        ("other", np.ones((1, 4), np.float32), "NOT_FOUND", "model other: not here, sums is"),
        ("sums", np.ones((1, 5), np.float32), "INVALID_ARGUMENT", r"input points: its shape is \[1, 5\], wanted"),
        ("sums", np.ones((1000, 4), np.float32), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_does(asked, model, array, code, wanted):
    with pytest.raises(InferenceServerException, match=wanted) as error:
        asked.infer(model, points(array))
    assert error.value.status() == f"StatusCode.{code}"


@pytest.fixture(scope="module")
def signature(two):
    return ServedModel.load(two, torch.device("cpu")).signature


def request(*inputs, raw=(), **fields):
    made = MESSAGES["ModelInferRequest"](raw_input_contents=raw, **fields)
    for name, numbers in inputs:
        entry = made.inputs.add(name=name, datatype="INT64", shape=[1, 2])
        entry.contents.int64_contents.extend(numbers)
    return made


@pytest.mark.parametrize("name", ["long", "长名字"])
def test_an_error_with_many_words_is_told_by_its_first_and_its_last(asked, name):
    with pytest.raises(InferenceServerException, match=rf"input {name}.*{name}: the model has none of that") as told:
        asked.infer("sums", points(np.ones((1, 4), np.float32), name=name * (8800 // len(name.encode()))))
    assert told.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert len(told.value.message()) < 3000


@pytest.mark.long
def test_clients_change_their_connection_all_the_time_and_lose_nothing(serve, affine):
    served = serve(affine, "--name", "sums")
    array = np.ones((1, 4), dtype=np.float32)
    deadline, connections = time.monotonic() + 8, set()
    with contextlib.closing(served.grpc_client()) as client, ThreadPoolExecutor(4) as askers:
        while time.monotonic() < deadline:
            # A call that fails raises: none is repeated.
            for answer in askers.map(lambda _: client.infer("sums", points(array)), range(64)):
                assert answer.as_numpy("output").tolist() == [[4.0, 5.0]]
            connections |= connected(served.grpc_port)
    assert len(connections) >= 2


def connected(port):
    """The clients' ends of the connections to this port."""
    lines = [line for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {row[1] for row in map(str.split, lines) if row[2].endswith(f":{port:04X}") and row[3] == "01"}


def test_contents_may_come_as_numbers(signature):
    found = decode(request(("second", [3, 4]), ("first", [1, 2]), id="x"), signature)
    assert [tensor.tolist() for tensor in found.inputs] == [[[1, 2]], [[3, 4]]]
    assert found.id == "x"


@pytest.mark.parametrize(
    ("asked_for", "wanted"),
    [
        (request(("first", [1, 2])), "input second: missing"),
        (request(("first", [1]), ("second", [1, 2])), r"input first: its data has the shape \[1\], wanted \[1, 2\]"),
        (
            request(("first", []), ("second", []), raw=[b"x"]),
            "raw_input_contents: found 1, wanted 2, one for each input",
        ),
        (request(("first", []), ("second", []), raw=[b"x", b""]), "input first: 1 bytes, wanted 16"),
    ],
)
def test_contents_that_do_not_fit_are_named(signature, asked_for, wanted):
    with pytest.raises(RequestError, match=wanted):
        decode(asked_for, signature)


class Asking:
    """A stream whose client asks and asks, and reads nothing but the first answer."""

    def __init__(self, count):
        self.left = count

    async def read(self):
        await asyncio.sleep(0)
        if not self.left:
            return grpc.aio.EOF
        self.left -= 1
        return self.left


def test_a_stream_that_nobody_reads_is_not_listened_to_until_somebody_does():
    async def main():
        context, given = Asking(1000), 0

        async def answers(request):
            nonlocal given
            for _ in range(2):
                given += 1
                yield request

        stream = answered(context, answers, asyncio.Event())
        first = await anext(stream)
        await asyncio.sleep(0.1)
        assert given < 200
        assert context.left > 700
        found = [first] + [one async for one in stream]
        assert sorted(found) == sorted([*range(1000)] * 2)

    asyncio.run(main())


def test_answers_that_nobody_reads_take_no_memory_without_end(serve, tmp_path):
    export_model(tmp_path / "wide", Trained(Wide(), (torch.randn(3, 4),), {}, ORIGIN), "token")
    served = serve(tmp_path / "wide", "--name", "wide")
    asked = MESSAGES["ModelInferRequest"](model_name="wide", raw_input_contents=[np.ones(4, np.float32).tobytes()])
    asked.inputs.add(name="points", datatype="FP32", shape=[1, 4])
    (server,) = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    before = memory(server)
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
        )
        answers = call(iter([asked] * 1000))
        next(answers)
        most = 0
        for _ in range(20):
            most = max(most, memory(server))
            time.sleep(0.1)
        answers.cancel()
    assert most - before < 300 << 20


class Wide(torch.nn.Module):
    """Of four numbers a million bytes."""

    def forward(self, points):
        return points[:, :1].expand(-1, 250_000) * 1.0


def memory(process):
    """In bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
