"""Runs in a pod: asks a model at a steady rate, by HTTP and gRPC, and checks every answer.

Open loop: a request is sent when its time has come, whatever became of those before. Every other HTTP request comes
over a connection of its own, the others over kept ones, as clients with a pool do. What was counted is in a file that
is replaced several times a second. No request is ever repeated.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import torch

from muster_worker.serve.grpc_messages import MESSAGES
from muster_worker.serve.model import ServedModel

KEPT_FAILURES = 100
WRITES_EVERY = 0.2


class Failed(Exception):  # noqa: N818
    """A request that was not answered as it should have been."""


class Asked:
    """Some inputs, with the answers that the model gives where nothing is between."""

    def __init__(self, directory: Path) -> None:
        model = ServedModel.load(directory, torch.device("cpu"))
        (spec,) = model.signature.inputs
        self.name, shape = spec.name, [1, *spec.shape[1:]]
        generator = torch.Generator().manual_seed(7)
        inputs = [torch.rand(shape, generator=generator) for _ in range(8)]
        self.answers = [model.compute([tensor])[0].flatten().tolist() for tensor in inputs]
        described = [
            {"name": self.name, "shape": shape, "datatype": "FP32"} | {"data": t.flatten().tolist()} for t in inputs
        ]
        self.bodies = [json.dumps({"inputs": [one]}).encode() for one in described]
        self.tensors = [(shape, tensor.numpy().tobytes()) for tensor in inputs]

    def check(self, number: int, answer: list[float]) -> None:
        wanted = self.answers[number % len(self.answers)]
        if len(answer) != len(wanted) or any(abs(a - b) > 1e-4 for a, b in zip(answer, wanted, strict=True)):
            raise Failed(f"wrong answer: {answer[:3]}, wanted {wanted[:3]}")


class Http:
    """HTTP/1.1 as far as it is needed; `pool` has connections that are kept."""

    def __init__(self, host: str, port: int, model: str, asked: Asked) -> None:
        self._host, self._port, self._path, self._asked = host, port, f"/v2/models/{model}/infer", asked
        self._pool: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def way(self, number: int) -> str:
        return "kept" if number % 2 == 0 else "new"

    async def ask(self, number: int) -> None:
        try:
            await self._ask(number, kept=self.way(number) == "kept")
        except asyncio.CancelledError:
            self._pool.clear()  # no answer in time: what else is kept may lead to the same place
            raise

    async def _ask(self, number: int, *, kept: bool) -> None:
        connection = self._usable() if kept else None
        reader, writer = connection or await asyncio.open_connection(self._host, self._port)
        body = self._asked.bodies[number % len(self._asked.bodies)]
        head = f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n"
        writer.write((head + ("" if kept else "Connection: close\r\n") + "\r\n").encode() + body)
        status, headers, answer = await self._read(reader)
        if kept and headers.get("connection") != "close":
            self._pool.append((reader, writer))
        else:
            writer.close()
        if status != 200:
            raise Failed(f"HTTP {status}: {answer[:200]!r}")
        self._asked.check(number, json.loads(answer)["outputs"][0]["data"])

    def _usable(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._pool:
            reader, writer = self._pool.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
        return None

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


class Grpc:
    def __init__(self, host: str, port: int, model: str, asked: Asked) -> None:
        self._model, self._asked, self._target = model, asked, f"{host}:{port}"
        self._connect()

    def _connect(self) -> None:
        # Otherwise the next channel would be given the connection of this one.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(self._target, options=options)
        self._infer = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES["ModelInferResponse"].FromString,
        )

    def way(self, number: int) -> str:
        return "grpc"

    async def ask(self, number: int) -> None:
        try:
            await self._ask(number)
        except asyncio.CancelledError:
            self._connect()  # no answer in time, so none may come by this connection ever again
            raise

    async def _ask(self, number: int) -> None:
        shape, raw = self._asked.tensors[number % len(self._asked.tensors)]
        request = MESSAGES["ModelInferRequest"](model_name=self._model)
        request.inputs.add(name=self._asked.name, datatype="FP32", shape=shape)
        request.raw_input_contents.append(raw)
        answer = await self._infer(request)
        floats = torch.frombuffer(bytearray(answer.raw_output_contents[0]), dtype=torch.float32).tolist()
        self._asked.check(number, floats)


class Counts:
    """`way`: new (a connection for it alone), kept or grpc. Times are seconds since the epoch."""

    def __init__(self, path: Path, limit: float) -> None:
        self._path, self._limit = path, limit
        self.counted: dict[str, Any] = {"sent": 0, "answered": 0, "failed": 0, "failures": [], "slowest": 0.0}

    async def one(self, way: str, request: Any) -> None:
        self.counted["sent"] += 1
        begun, sent = time.monotonic(), time.time()
        try:
            async with asyncio.timeout(self._limit):
                await request
        except Exception as error:  # noqa: BLE001 - whatever it is, the client has no answer
            self.counted["failed"] += 1
            failure = {"sent": sent, "at": time.time(), "way": way, "what": f"{type(error).__name__}: {error}"[:2000]}
            self.counted["failures"] = [*self.counted["failures"], failure][-KEPT_FAILURES:]
        else:
            self.counted["answered"] += 1
            self.counted["slowest"] = max(self.counted["slowest"], time.monotonic() - begun)

    async def keep_writing(self) -> None:
        while True:
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(self.counted | {"at": time.time()}))
            new.rename(self._path)
            await asyncio.sleep(WRITES_EVERY)


async def main(host: str, model: str, rate: float, limit: float, directory: Path, counts_at: Path) -> None:
    asked = Asked(directory)
    # Once: a name server that is lost with a node is nothing that Muster could do about.
    address = socket.gethostbyname(host)
    http, by_grpc, counts = Http(address, 80, model, asked), Grpc(address, 9000, model, asked), Counts(counts_at, limit)
    under_way: set[asyncio.Task[None]] = {asyncio.create_task(counts.keep_writing())}
    begun = time.monotonic()
    for number in itertools.count():
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        client: Http | Grpc = by_grpc if number % 4 == 3 else http
        task = asyncio.create_task(counts.one(client.way(number), client.ask(number)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


if __name__ == "__main__":
    torch.set_num_threads(1)
    host, model, rate, limit, directory = sys.argv[1:]
    asyncio.run(main(host, model, float(rate), float(limit), Path(directory), Path(os.environ["COUNTS"])))
