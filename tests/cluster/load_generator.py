"""Runs in a pod: asks a model of Muster's own runtime, by HTTP and gRPC, and checks every answer.

Every other HTTP request comes over a connection of its own, the others over kept ones, as clients with a pool do.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import grpc
import torch
from open_loop import Client, Counts, Failed, Http, ask_steadily

from muster_worker.serve.grpc_messages import MESSAGES
from muster_worker.serve.model import ServedModel


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

    def check_body(self, number: int, body: bytes) -> None:
        self.check(number, json.loads(body)["outputs"][0]["data"])

    def check(self, number: int, answer: list[float]) -> None:
        wanted = self.answers[number % len(self.answers)]
        if len(answer) != len(wanted) or any(abs(a - b) > 1e-4 for a, b in zip(answer, wanted, strict=True)):
            raise Failed(f"wrong answer: {answer[:3]}, wanted {wanted[:3]}")


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
        channel = self._channel  # which others may leave meanwhile: it lives for as long as somebody waits
        try:
            await self._ask(number)
        except asyncio.CancelledError:
            if self._channel is channel:
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


async def main(host: str, model: str, rate: float, limit: float, directory: Path, counts_at: Path) -> None:
    asked = Asked(directory)
    # Once: a name server that is lost with a node is nothing that Muster could do about.
    address = socket.gethostbyname(host)
    http, by_grpc = Http(address, f"/v2/models/{model}/infer", asked), Grpc(address, 9000, model, asked)

    def client(number: int) -> Client:
        return by_grpc if number % 4 == 3 else http

    await ask_steadily(client, rate, Counts(counts_at, limit))


if __name__ == "__main__":
    torch.set_num_threads(1)
    host, model, rate, limit, directory = sys.argv[1:]
    asyncio.run(main(host, model, float(rate), float(limit), Path(directory), Path(os.environ["COUNTS"])))
