"""A text as tensors of an inference over HTTP, asked by Triton's client and by hand."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from muster_worker.serve.errors import RequestError
from muster_worker.serve.generate.json_codec import decode_tensors
from muster_worker.serve.json_codec import parse
from tests.worker.serve.writing import ask, infer_tensors


@pytest.fixture(scope="module")
def asked(chargpt):
    with contextlib.closing(chargpt.client()) as client:
        yield client


def tensor(name, content, *, binary):
    made = triton.InferInput(name, [1], "BYTES")
    made.set_data_from_numpy(np.array([content], dtype=np.object_), binary_data=binary)
    return made


@pytest.mark.parametrize("binary_answer", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_it_is_what_generate_writes(chargpt, asked, binary, binary_answer):
    _, _, wanted = ask(chargpt, "def f(é", max_tokens=20, temperature=0.7, seed=4)
    outputs = [triton.InferRequestedOutput("text_output", binary_data=binary_answer)]
    answer = asked.infer(
        "chargpt",
        [tensor("text_input", "def f(é", binary=binary)],
        outputs=outputs,
        request_id="7",
        parameters={"max_tokens": 20, "temperature": 0.7, "seed": 4},
    )
    (text,) = answer.as_numpy("text_output")
    assert (text.decode() if binary_answer else text) == wanted["text_output"]
    told = answer.get_response()
    assert (told["id"], told["parameters"]) == ("7", {"finish_reason": "length"})
    assert told["model_version"] == wanted["model_version"]


def test_parameters_may_be_a_tensor(chargpt, asked):
    _, _, wanted = ask(chargpt, "a", max_tokens=30, seed=1, stop=[" "])
    sampling = json.dumps({"max_tokens": 30, "seed": 1, "stop": [" "]})
    inputs = [tensor("text_input", "a", binary=True), tensor("sampling_parameters", sampling, binary=False)]
    (text,) = asked.infer("chargpt", inputs).as_numpy("text_output")
    assert text.decode() == wanted["text_output"]


def test_without_outputs_all_is_as_the_request_says(chargpt):
    body = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [["a"]]}]}
    status, answer = infer_tensors(chargpt, body | {"parameters": {"max_tokens": 3, "seed": 1}})
    assert status == 200
    (output,) = answer["outputs"]
    assert output == {"name": "text_output", "datatype": "BYTES", "shape": [1], "data": output["data"]}
    assert len(output["data"][0]) == 3
    assert "id" not in answer


@pytest.mark.long
def test_a_model_that_does_not_generate_says_why(serve, affine):
    with (
        contextlib.closing(serve(affine).client()) as client,
        pytest.raises(InferenceServerException, match="does not generate text") as refused,
    ):
        client.infer("affine", [tensor("text_input", "a", binary=True)])
    assert refused.value.status() == "404"


def test_what_is_wrong_with_the_text_is_told(chargpt, asked):
    with pytest.raises(InferenceServerException, match="max_tokens: found 0, wanted a whole number") as refused:
        asked.infer("chargpt", [tensor("text_input", "a", binary=True)], parameters={"max_tokens": 0})
    assert refused.value.status() == "400"


def body_of(*entries, rest=b"", **more):
    head = json.dumps({"inputs": entries, **more}).encode()
    return parse(head + rest, len(head))


def text(name="text_input", data=("a",), **more):
    return {"name": name, "datatype": "BYTES", "shape": [1], "data": data} | more


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (body_of(text(datatype="FP32")), r"input text_input: found FP32 \[1\], wanted one element: BYTES \[1\]"),
        (body_of(text(shape=[2])), r"input text_input: found BYTES \[2\], wanted one element: BYTES \[1\]"),
        (body_of(text(shape=None)), "input text_input: its shape is None, wanted a list"),
        (body_of(text(data=["a", "b"])), "input text_input: its contents have 2 elements, wanted one"),
        (body_of(text(data=[1])), r"input text_input: its data is \[1\], wanted a list of texts"),
        (body_of(text(data=None)), "input text_input: its data is None, wanted a list of texts"),
        (body_of(text(), text()), "input text_input: given twice"),
        (body_of(text(), text("sampling_parameters", ["{"])), "input sampling_parameters: it is not JSON: "),
        (body_of(text("prompt")), "input prompt: there is none of that name, wanted text_input and sampling_par"),
        (body_of(text(), outputs=[{"name": "logits"}]), "output logits: there is none of that name, wanted text_out"),
        (body_of(text(), parameters={"details": True}), "parameters.details: found it in an inference, wanted it in"),
        (
            body_of(text(parameters={"binary_data_size": 7}), rest=b"\x05\0\0\0abc"),
            "input text_input: its bytes end within an element",
        ),
        (body_of(text(), rest=b"abc"), "the body: 3 bytes at its end belong to no input"),
    ],
)
def test_what_does_not_fit_is_named(body, wanted):
    with pytest.raises(RequestError, match=wanted):
        decode_tensors(body)
