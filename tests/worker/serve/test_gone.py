"""Clients of HTTP that do not wait for their answers."""

from __future__ import annotations

import asyncio
import json
import threading

from muster_worker.serve.listening import http_server, listen
from muster_worker.serve.metrics import Metrics
from muster_worker.serve.model import Model, Signature
from muster_worker.serve.service import Limits, Service
from muster_worker.serve.tensors import TensorSpec

LIMIT = 10


class Slow(Model):
    """Gives what it gets, once it may."""

    signature = Signature(*((TensorSpec(name, "FP32", (-1, 1)),) for name in ("points", "output")))
    version = sha256 = "slow"

    def __init__(self):
        self.computed, self.may = [], threading.Event()

    def compute(self, inputs):
        self.computed.append(inputs[0].item())
        assert self.may.wait(LIMIT)
        return [inputs[0]]


async def until(holds):
    async with asyncio.timeout(LIMIT):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)


async def asking(address, number):
    body = json.dumps({"inputs": [{"name": "points", "datatype": "FP32", "shape": [1, 1], "data": [number]}]})
    reader, writer = await asyncio.open_connection(*address)
    head = f"POST /v2/models/slow/infer HTTP/1.1\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    writer.write((head + body).encode())
    return reader, writer


async def some_go(model):
    """What those are answered who do not, and how the service is then."""
    service = Service("slow", Limits(), Metrics())
    service.serve(model, seconds=1.0)
    listening = listen("127.0.0.1", 0)
    address = listening.getsockname()
    server = http_server(service)
    serving = asyncio.create_task(server.serve([listening]))
    first = await asking(address, 1)
    await until(lambda: model.computed)
    gone = [await asking(address, number) for number in (2, 3)]
    last = await asking(address, 4)
    await until(lambda: len(service._batcher._waiting) == 3)
    for _, writer in gone:
        writer.close()
    await until(lambda: service.state()["requests"] == len(gone))
    model.may.set()
    answers = [await asyncio.wait_for(reader.read(), LIMIT) for reader, _ in (first, last)]
    server.should_exit = True
    await serving
    service.close()
    return [json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"][0]["data"] for answer in answers], service.state()


def test_nothing_is_computed_for_them_and_nothing_has_failed():
    model = Slow()
    answers, state = asyncio.run(some_go(model))
    assert answers == [[1.0], [4.0]]
    assert model.computed == [1.0, 4.0]
    assert (state["requests"], state["failedRequests"]) == (4, 0)
