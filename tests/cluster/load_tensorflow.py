"""Runs in a pod: asks TensorFlow's model server for 2x + 1, by REST and gRPC, and checks every answer.

Every REST request comes over a connection of its own: the server never says on a kept one that it leaves. In gRPC it
does, so there one connection is kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from open_loop import Client, Counts, Failed, Http, ask_steadily
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


class Asked:
    """`values`: one row of each request."""

    def __init__(self) -> None:
        self.values = [[number / 4, -number / 2] for number in range(8)]
        self.bodies = [json.dumps({"instances": [one]}).encode() for one in self.values]

    def check_body(self, number: int, body: bytes) -> None:
        self.check(number, json.loads(body)["predictions"])

    def check(self, number: int, answer: list[list[float]]) -> None:
        wanted = [[2 * x + 1 for x in self.values[number % len(self.values)]]]
        if answer != wanted:
            raise Failed(f"wrong answer: {answer}, wanted {wanted}")


class Grpc:
    def __init__(self, target: str, model: str, asked: Asked) -> None:
        self._model, self._asked = model, asked
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(grpc.aio.insecure_channel(target))

    def way(self, number: int) -> str:
        return "grpc"

    async def ask(self, number: int) -> None:
        request = predict_pb2.PredictRequest(model_spec={"name": self._model})
        row = np.array([self._asked.values[number % len(self._asked.values)]], np.float32)
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(row))
        answer = await self._service.Predict(request)
        self._asked.check(number, tf.make_ndarray(answer.outputs["y"]).tolist())


async def main(host: str, model: str, rate: float, counts: Counts) -> None:
    asked = Asked()
    # Once: a name server that is lost with a node is nothing that Muster could do about.
    address = socket.gethostbyname(host)
    rest = Http(address, f"/v1/models/{model}:predict", asked, keeps=False)
    by_grpc = Grpc(f"{address}:9000", model, asked)

    def client(number: int) -> Client:
        return by_grpc if number % 4 == 3 else rest

    await ask_steadily(client, rate, counts)


if __name__ == "__main__":
    host, model, rate, limit = sys.argv[1:5]
    asyncio.run(main(host, model, float(rate), Counts(Path(os.environ["COUNTS"]), float(limit))))
