"""Runs in a pod: has a model that writes go on with a text, streamed over gRPC, and explain what follows another.

Its arguments are the deployment's name and the two texts; what it found is printed as JSON.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

import grpc

from muster_worker.recipes.chargpt import VOCABULARY
from muster_worker.serve.grpc_messages import MESSAGES


def streamed(model: str, prompt: str) -> list[Any]:
    """The answers of ModelStreamInfer, as they come."""
    request = MESSAGES["ModelInferRequest"](model_name=model)
    entry = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    entry.contents.bytes_contents.append(prompt.encode())
    request.parameters["max_tokens"].int64_param = 20
    request.parameters["seed"].int64_param = 1
    with grpc.insecure_channel(f"{model}:9000") as channel:
        ask = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
            response_deserializer=MESSAGES["ModelStreamInferResponse"].FromString,
        )
        return list(ask(iter([request]), timeout=30))


def text_of(answer: Any) -> str:
    (content,) = answer.infer_response.raw_output_contents
    return content[4:].decode()  # after its length


def asked(model: str, word: str, tokens: list[list[int]]) -> dict[str, Any]:
    """The outputs for rows of tokens."""
    entry = {"name": "tokens", "datatype": "INT64", "shape": [len(tokens), len(tokens[0])], "data": tokens}
    body = json.dumps({"inputs": [entry]}).encode()
    with urllib.request.urlopen(f"http://{model}/v2/models/{model}/{word}", body, timeout=30) as answer:
        return {one["name"]: one for one in json.load(answer)["outputs"]}


def explained(model: str, text: str) -> dict[str, Any]:
    """Attributions of a text, beside the difference of outputs from those of nothing that they are to make up."""
    tokens = [VOCABULARY.index(character) for character in text]
    explanation = asked(model, "explain", [tokens])
    logits = asked(model, "infer", [tokens, [0] * len(tokens)])["output"]["data"]
    (target,), classes = explanation["target"]["data"], len(VOCABULARY)
    there, nothing = (logits[row * len(tokens) * classes :][: len(tokens) * classes][-classes:] for row in (0, 1))
    return {
        "attributions": explanation["attributions.tokens"]["data"],
        "delta": explanation["delta"]["data"][0],
        "target": VOCABULARY[target],
        "likeliest": VOCABULARY[max(range(classes), key=there.__getitem__)],
        "difference": there[target] - nothing[target],
    }


def main(model: str, prompt: str, text: str) -> None:
    answers = streamed(model, prompt)
    found = {
        "errors": [answer.error_message for answer in answers if answer.error_message],
        "texts": [text_of(answer) for answer in answers],
        "finish_reason": answers[-1].infer_response.parameters["finish_reason"].string_param,
        "explanation": explained(model, text),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
