"""What kserve runs: `kserve_model.py NAME PROGRAM PORT`."""

from __future__ import annotations

import asyncio
import logging
import sys
import warnings
from pathlib import Path

import torch
import uvloop
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from tests.bench.serving.models import computation


class Served(Model):
    """One forward pass a request."""

    def __init__(self, name: str, program: Path) -> None:
        super().__init__(name)
        torch.set_num_threads(1)
        self._forward = computation(program)
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        with torch.inference_mode():
            found = self._forward(torch.from_numpy(payload.inputs[0].as_numpy())).numpy()
        output = InferOutput("output", list(found.shape), "FP32")
        output.set_data_from_numpy(found, binary_data=False)
        return InferResponse(payload.id or "none", self.name, [output])


if __name__ == "__main__":
    name, program, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    # It runs on whatever loop there is by default, and by itself Python 3.14 has none. uvloop is the faster.
    warnings.simplefilter("ignore", DeprecationWarning)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(uvloop.new_event_loop())
    server = ModelServer(http_port=port, enable_grpc=False, enable_latency_logging=False)
    logging.disable(logging.INFO)  # a line a request, and another
    server.start([Served(name, program)])
