"""A stream of tokens over gRPC, read by Triton's client."""

from __future__ import annotations

import contextlib
import json
import queue
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from muster_worker.serve.errors import RequestError
from muster_worker.serve.generate.grpc_codec import decode
from muster_worker.serve.grpc_messages import MESSAGES
from tests.worker.serve.served import LIMIT
from tests.worker.serve.writing import LONG, LONG_CONFIG, publish


@pytest.fixture(scope="module")
def asked(chargpt):
    with contextlib.closing(chargpt.grpc_client()) as client:
        yield client


def inputs(text, **sampling):
    """`sampling`: parameters for which Triton's client has no type."""
    tensors = []
    for name, content in (("text_input", text), ("sampling_parameters", json.dumps(sampling))):
        tensor = triton.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([content.encode()], dtype=np.object_))
        tensors.append(tensor)
    return tensors if sampling else tensors[:1]


@contextlib.contextmanager
def stream(client):
    """Of answers, each with its error; at its end, whatever is under way is given up."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    yield answers
    client.stop_stream(cancel_requests=True)


def text_of(answer):
    (text,) = answer.as_numpy("text_output")
    return text.decode()


def read(answers):
    """Of one request: its texts, and why it ended."""
    texts = []
    while True:
        answer, error = answers.get(timeout=LIMIT)
        assert error is None
        texts.append(text_of(answer))
        parameters = answer.get_response().parameters
        if parameters["triton_final_response"].bool_param:
            return texts, parameters["finish_reason"].string_param


def test_a_stream_has_an_answer_for_each_token_and_the_last_says_why(asked):
    parameters = {"max_tokens": 20, "top_k": 10, "seed": 4}
    whole = asked.infer("chargpt", inputs("def f(", temperature=0.7), parameters=parameters)
    with stream(asked) as answers:
        for _ in range(2):
            text = inputs("def f(", temperature=0.7)
            asked.async_stream_infer("chargpt", text, parameters=parameters, enable_empty_final_response=True)
            texts, reason = read(answers)
            assert (len(texts), reason) == (20, "length")
            assert "".join(texts) == text_of(whole)


def test_requests_of_one_stream_are_answered_together(asked):
    wanted = {str(seed): text_of(asked.infer("chargpt", inputs("a"), parameters={"seed": seed})) for seed in range(12)}
    found = dict.fromkeys(wanted, "")
    order, ended = [], 0
    with stream(asked) as answers:
        for seed in found:
            outputs = [triton.InferRequestedOutput("text_output")]
            asked.async_stream_infer(
                "chargpt", inputs("a"), request_id=seed, outputs=outputs, parameters={"seed": int(seed)}
            )
        while ended < len(found):
            answer, error = answers.get(timeout=LIMIT)
            assert error is None
            response = answer.get_response()
            order.append(response.id)
            found[response.id] += text_of(answer)
            ended += response.parameters["triton_final_response"].bool_param
    assert found == wanted
    assert order != sorted(order, key=list(wanted).index), "one after the other"


def test_a_request_that_fails_leaves_the_stream_to_others(asked):
    with stream(asked) as answers:
        asked.async_stream_infer("chargpt", inputs("a"), request_id="7", parameters={"max_tokens": 0})
        _, error = answers.get(timeout=LIMIT)
        assert error.message() == "parameters.max_tokens: found 0, wanted a whole number, at least 1"
        asked.async_stream_infer("chargpt", inputs("a"), parameters={"stop": "\n", "max_tokens": 3})
        read(answers)


def test_inference_goes_by_a_stream_too(asked):
    tokens = triton.InferInput("tokens", [1, 48], "INT64")
    tokens.set_data_from_numpy(np.zeros((1, 48), dtype=np.int64))
    with stream(asked) as answers:
        asked.async_stream_infer("chargpt", [tokens])
        answer, error = answers.get(timeout=LIMIT)
    assert error is None
    assert np.array_equal(answer.as_numpy("output"), asked.infer("chargpt", [tokens]).as_numpy("output"))


def test_a_model_that_does_not_generate_says_why(serve, affine):
    served = serve(affine)
    with contextlib.closing(served.grpc_client()) as client, stream(client) as answers:
        client.async_stream_infer("affine", inputs("a"))
        _, error = answers.get(timeout=LIMIT)
        assert "does not generate text: when it was published, its recipe had no language_model" in error.message()
        with pytest.raises(InferenceServerException, match="does not generate text") as refused:
            client.infer("affine", inputs("a"))
        assert refused.value.status() == "StatusCode.NOT_FOUND"


def test_the_metadata_says_that_it_generates(chargpt):
    with grpc.insecure_channel(f"127.0.0.1:{chargpt.grpc_port}") as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata",
            request_serializer=MESSAGES["ModelMetadataRequest"].SerializeToString,
            response_deserializer=MESSAGES["ModelMetadataResponse"].FromString,
        )
        answer = ask(MESSAGES["ModelMetadataRequest"](name="chargpt"))
    assert dict(answer.properties) == {"generate": "true", "context": "48"}


def request(*contents, name="text_input", datatype="BYTES", shape=(1,), raw=(), outputs=()):
    made = MESSAGES["ModelInferRequest"](raw_input_contents=raw)
    entry = made.inputs.add(name=name, datatype=datatype, shape=shape)
    entry.contents.bytes_contents.extend(contents)
    for output in outputs:
        made.outputs.add(name=output)
    return made


def test_parameters_may_come_as_numbers_of_every_kind():
    made = request(b"a")
    made.parameters["temperature"].double_param = 0.5
    made.parameters["top_k"].uint64_param = 3
    made.parameters["seed"].int64_param = 0
    made.parameters["stop"].string_param = "."
    found = decode(made).parameters
    assert (found.temperature, found.top_k, found.seed, found.stop) == (0.5, 3, 0, (".",))


def test_the_text_may_come_as_contents():
    assert decode(request("é".encode())).text == "é"


@pytest.mark.parametrize(
    ("asked_for", "wanted"),
    [
        (request(b"a", datatype="INT64"), r"input text_input: found INT64 \[1\], wanted one element: BYTES \[1\]"),
        (request(b"a", b"b"), "input text_input: its contents have 2 elements, wanted one"),
        (request(b"\xff"), "input text_input: it is no UTF-8 text: "),
        (request(raw=[b"\x05\0\0\0abc"]), "input text_input: its bytes end within an element"),
        (
            request(raw=[b"\x01\0\0\0a" * 2]),
            "input text_input: its first element ends 5 bytes before its end, wanted one",
        ),
        (request(raw=[bytes(16 << 20)]), "input text_input: its first element ends 16777212 bytes before its end"),
        (request(b"[]", name="sampling_parameters"), "input text_input: missing"),
        (request(b"a", name="prompt"), "input prompt: there is none of that name, wanted text_input and sampling_par"),
        (request(b"a", outputs=["logits"]), "output logits: there is none of that name, wanted text_output"),
    ],
)
def test_contents_that_do_not_fit_are_named(asked_for, wanted):
    with pytest.raises(RequestError, match=wanted):
        decode(asked_for)


@pytest.fixture
def long(serve, tmp_path):
    publish(tmp_path / "chargpt", config=LONG_CONFIG)
    return serve(tmp_path / "chargpt")


@pytest.mark.long
def test_whoever_goes_frees_the_slot(long):
    with contextlib.closing(long.grpc_client()) as client:
        with stream(client) as answers:
            for _ in range(8):
                client.async_stream_infer("chargpt", inputs("a"), parameters={"max_tokens": LONG})
            answers.get(timeout=LIMIT)
        with stream(client) as answers:
            begun = time.monotonic()
            client.async_stream_infer("chargpt", inputs("a"), parameters={"max_tokens": 2})
            read(answers)
            assert time.monotonic() - begun < 2


@pytest.mark.long
def test_told_to_leave_it_ends_what_streams_and_waits_for_none_that_is_idle(long):
    with (
        contextlib.closing(long.grpc_client()) as idle,
        contextlib.closing(long.grpc_client()) as client,
        stream(idle) as nothing,
        stream(client) as answers,
    ):
        idle.async_stream_infer("chargpt", inputs("a"), parameters={"max_tokens": 1})
        read(nothing)
        # Of which the last is written long before those are told to go who would stay: also on a busy machine.
        count = LONG // 4
        client.async_stream_infer("chargpt", inputs("a"), parameters={"max_tokens": count})
        answers.get(timeout=LIMIT)
        long.process.terminate()
        told = time.monotonic()
        texts, reason = read(answers)
        assert (len(texts), reason) == (count - 1, "length")
        assert long.process.wait(LIMIT) == 0
        assert time.monotonic() - told < 20, "of 30"
