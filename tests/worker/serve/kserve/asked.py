"""Run by the Python that has kserve: `asked.py HTTP_PORT GRPC_PORT MODEL` prints what kserve's clients are answered."""

from __future__ import annotations

import asyncio
import json
import sys
import warnings

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferOutput, InferRequest, RESTConfig
    from kserve.protocol.infer_type import InferResponse, RequestedOutput

SAMPLES = np.arange(12, dtype=np.float32).reshape(3, 4)


def request(model: str, *, binary: bool) -> InferRequest:
    tensor = InferInput("points", list(SAMPLES.shape), "FP32")
    tensor.set_data_from_numpy(SAMPLES, binary_data=binary)
    asked = RequestedOutput("output", parameters={"binary_data": binary})
    return InferRequest(model, [tensor], request_id="7", request_outputs=[asked])


def told(answer: InferResponse) -> dict[str, object]:
    (output,) = answer.outputs
    assert isinstance(output, InferOutput)
    return {
        "id": answer.id,
        "model": answer.model_name,
        "version": answer.model_version,
        "shape": list(output.shape),
        "datatype": output.datatype,
        "values": output.as_numpy().tolist(),
    }


async def by_http(url: str, model: str) -> dict[str, object]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    try:
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, model),
            "numbers": told(await client.infer(url, request(model, binary=False), model_name=model)),
            "bytes": told(await client.infer(url, request(model, binary=True), model_name=model)),
        }
    finally:
        await client.close()


async def by_grpc(url: str, model: str) -> dict[str, object]:
    client = InferenceGRPCClient(url, retries=0)
    try:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready(model),
            "numbers": told(await client.infer(request(model, binary=False))),
            "bytes": told(await client.infer(request(model, binary=True))),
        }
    finally:
        await client.close()


async def main(http_port: str, grpc_port: str, model: str) -> None:
    found = {
        "http": await by_http(f"http://127.0.0.1:{http_port}", model),
        "grpc": await by_grpc(f"127.0.0.1:{grpc_port}", model),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
