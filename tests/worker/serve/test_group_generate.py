"""Text by a replica of several processes: it is that of one, whoever computes it and whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import json
import signal
import threading

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from tests.worker.serve.pods import until
from tests.worker.serve.served import LIMIT
from tests.worker.serve.writing import (
    CONFIG,
    LONG,
    LONG_CONFIG,
    ask,
    begin,
    chargpt,
    connection,
    counted,
    events,
    infer,
    publish,
    stream,
)

pytestmark = pytest.mark.usefixtures("on_this_machine")

NAMED = ("--name", "chargpt")
ASKED = [(f"x = {number}", {"max_tokens": 25, "seed": number}) for number in range(12)] + [
    (prompt, {"max_tokens": 30, "temperature": 0}) for prompt in ("The", "while x < 3:", "def f(x", "lambda: 0")
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    found = tmp_path_factory.mktemp("models") / "chargpt"
    publish(found)
    return found


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """The directory of a model whose texts are so long that somebody can die meanwhile."""
    found = tmp_path_factory.mktemp("models") / "chargpt"
    publish(found, config=LONG_CONFIG)
    return found


@pytest.fixture(scope="module")
def wanted(serve_for_module, directory):
    """What one process writes."""
    served = serve_for_module(directory)
    return [ask(served, text, **parameters)[2]["text_output"] for text, parameters in ASKED]


@pytest.fixture(scope="module")
def alone(serve_for_module, long):
    """One process with the model of long texts."""
    return serve_for_module(long)


def at_once(number, asks):
    """What all of them give that are asked in threads of their own."""
    found = [None] * number
    threads = [
        threading.Thread(target=lambda index: found.__setitem__(index, asks(index)), args=(index,))
        for index in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--data", "2"), 2),
        (("--tensor", "2"), 1),
        (("--tensor", "2"), 2),
        (("--data", "2", "--tensor", "2"), 1),
        (("--pipeline", "2"), 2),
        (("--pipeline", "4"), 1),
        (("--tensor", "2", "--pipeline", "2"), 2),
    ],
)
def test_a_group_writes_what_one_process_does(group, directory, wanted, words, count):
    pods = group(directory, *words, *NAMED, count=count)
    found = at_once(len(ASKED), lambda index: stream(pods, ASKED[index][0], **ASKED[index][1]))
    assert ["".join(event["text_output"] for event in one) for one in found] == wanted
    assert counted(pods, "muster_serve_generated_tokens_total") == 12 * 25 + 4 * 30
    assert counted(pods, "muster_serve_first_token_seconds_count") == len(ASKED)
    with connection(pods) as one:
        one.request("GET", "/v2/models/chargpt")
        assert json.loads(one.getresponse().read())["properties"] == {"generate": "true", "context": "48"}


@pytest.mark.long
@pytest.mark.parametrize("words", [("--tensor", "2"), ("--pipeline", "2")])
def test_quantized_layers_that_are_divided_write_what_one_process_does(group, serve, tmp_path, words):
    publish(tmp_path / "chargpt", [{"quantize": {"bits": 4}}])
    alone, pods = serve(tmp_path / "chargpt"), group(tmp_path / "chargpt", *words, *NAMED)
    for text, parameters in ASKED[:2] + ASKED[-2:]:
        found = [ask(served, text, **parameters)[2]["text_output"] for served in (alone, pods)]
        assert found[0] == found[1]


@pytest.mark.long
@pytest.mark.parametrize("words", [("--data", "2"), ("--tensor", "2"), ("--pipeline", "2")])
def test_a_group_infers_texts_of_any_length(group, directory, words):
    pods, model = group(directory, *words, *NAMED), chargpt()
    for samples, length in ((1, 1), (3, 7), (2, CONFIG.context), (3, 1)):
        tokens = torch.randint(96, (samples, length), generator=torch.Generator().manual_seed(length))
        status, answer = infer(pods, tokens)
        assert status == 200, answer
        found = torch.tensor(answer["outputs"][0]["data"]).view(samples, length, 96)
        with torch.no_grad():
            torch.testing.assert_close(found, model(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("words", [("--data", "2"), ("--tensor", "2"), ("--pipeline", "2")])
def test_a_rank_that_is_killed_costs_no_text(group, long, alone, words):
    asked = [("The", {"max_tokens": 200, "temperature": 0}), ("def f(x", {"max_tokens": 200, "seed": 3})] * 2
    texts = [ask(alone, text, **parameters)[2]["text_output"] for text, parameters in asked]
    pods = group(long, *words, *NAMED)
    streams = [begin(pods, text, **parameters) for text, parameters in asked]
    pods.signal(signal.SIGKILL, "rank 1")
    for (one, answer, first), text in zip(streams, texts, strict=True):
        found = [first, *events(answer)]
        one.close()
        assert "".join(event.get("text_output", str(event)) for event in found) == text
        assert len(found) == 200
    until(pods.is_ready)
    assert pods.state()["death"]["count"] == 1
    assert counted(pods, 'muster_serve_sequences{state="active"}') == 0
    assert ask(pods, asked[0][0], **asked[0][1])[2]["text_output"] == texts[0]


@pytest.mark.long
def test_a_rank_that_stands_still_is_left_by_its_texts(group, long, alone):
    parameters = {"max_tokens": 200, "temperature": 0}
    wanted = ask(alone, "The", **parameters)[2]["text_output"]
    pods = group(long, "--data", "2", *NAMED)
    streams = [begin(pods, "The", **parameters) for _ in range(4)]
    pods.signal(signal.SIGSTOP, "rank 0")
    for one, answer, first in streams:
        assert "".join(event.get("text_output", str(event)) for event in [first, *events(answer)]) == wanted
        one.close()
    pods.signal(signal.SIGCONT, "rank 0")
    until(pods.is_ready)
    assert ask(pods, "The", **parameters)[2]["text_output"] == wanted


def test_while_nobody_is_there_to_compute_texts_wait(group, directory, wanted):
    pods = group(directory, "--tensor", "2", *NAMED)
    pods.signal(signal.SIGKILL, "rank 0")
    text, parameters = ASKED[0]
    assert ask(pods, text, **parameters)[2]["text_output"] == wanted[0]


@pytest.mark.long
@pytest.mark.parametrize("words", [("--data", "2"), ("--tensor", "2"), ("--pipeline", "2")])
def test_a_client_that_goes_frees_the_slot(group, long, alone, words):
    pods = group(long, *words, *NAMED)
    for one, answer, _ in [begin(pods, "a", max_tokens=LONG) for _ in range(4)]:
        answer.close()
        one.close()
    until(lambda: counted(pods, 'muster_serve_sequences{state="active"}') == 0)
    assert counted(pods, "muster_serve_generated_tokens_total") < 4 * LONG / 2
    parameters = {"max_tokens": 20, "temperature": 0}
    assert ask(pods, "The", **parameters)[2]["text_output"] == ask(alone, "The", **parameters)[2]["text_output"]


@pytest.mark.long
def test_told_to_leave_it_finishes_what_it_writes(group, long):
    pods = group(long, "--tensor", "2", *NAMED, count=2)
    one, answer, _ = begin(pods, "a", max_tokens=300)
    for pod in reversed(pods.pods):
        pod.process.terminate()
    found = list(events(answer))
    one.close()
    assert len(found) == 299
    assert found[-1]["details"] == {"finish_reason": "length"}
    assert [pod.process.wait(LIMIT) for pod in pods.pods] == [0, 0]


@pytest.mark.long
@pytest.mark.parametrize(
    "words", [("--tensor", "2"), ("--pipeline", "2"), ("--pipeline", "3"), ("--tensor", "2", "--pipeline", "2")]
)
def test_a_client_that_asks_wrongly_is_in_the_way_of_no_text(group, serve, tmp_path, words):
    publish(tmp_path / "chargpt", config=LONG_CONFIG, recipe="tests.worker.serve.writing:Particular")
    parameters = {"max_tokens": 300, "temperature": 0}
    text = ask(serve(tmp_path / "chargpt"), "The", **parameters)[2]["text_output"]
    pods = group(tmp_path / "chargpt", *words, *NAMED)
    before = [pods.process(f"rank {rank}") for rank in (0, 1)]
    one, answer, first = begin(pods, "The", **parameters)
    for _ in range(4):
        status, error = infer(pods, torch.tensor([[1, 2, 9999]]))
        assert (status, error["error"]) == (500, "the model failed: IndexError: index out of range in self")
        for prompt in ("a # b", "a!"):
            status, _, error = ask(pods, prompt, max_tokens=5)
            assert (status, error["error"]) == (500, f"the model failed: ValueError: not so: {prompt}")
    assert infer(pods, torch.tensor([[1, 2, 3]]))[0] == 200
    found = [first, *events(answer)]
    one.close()
    assert "".join(event.get("text_output", str(event)) for event in found) == text
    assert pods.is_ready()
    assert [pods.process(f"rank {rank}") for rank in (0, 1)] == before


def test_it_writes_by_grpc(group, directory, wanted):
    pods = group(directory, "--tensor", "2", *NAMED)
    prompt, parameters = ASKED[0]
    text = triton.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([prompt.encode()], dtype=np.object_))
    with contextlib.closing(pods.pods[0].grpc_client()) as client:
        answer = client.infer("chargpt", [text], parameters=parameters)
    assert answer.as_numpy("text_output")[0].decode() == wanted[0]


def test_a_pipeline_says_that_it_writes_no_text_where_its_recipe_needs_all_layers(group, tmp_path):
    publish(tmp_path / "chargpt", recipe="tests.worker.serve.writing:Whole")
    pods = group(tmp_path / "chargpt", "--pipeline", "2", *NAMED)
    status, _, answer = ask(pods, "a")
    assert status == 404
    assert answer["error"].endswith(
        " of chargpt does not generate text: spec.group.parallelism.pipeline: found 2, wanted 1, or a"
        " language_model that says by_stages"
    )
    with connection(pods) as one:
        one.request("GET", "/v2/models/chargpt")
        assert "properties" not in json.loads(one.getresponse().read())
