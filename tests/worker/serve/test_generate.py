"""A server that generates text, as a process, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time

import pytest
import torch

from muster_worker.recipes.chargpt import decoded, encoded
from tests.worker.serve.served import LIMIT
from tests.worker.serve.writing import (
    CONFIG,
    LONG,
    LONG_CONFIG,
    PATH,
    ask,
    begin,
    connection,
    counted,
    events,
    infer,
    publish,
    request,
    stream,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("models") / "chargpt"


@pytest.fixture(scope="module")
def model(directory):
    return publish(directory)


@pytest.fixture(scope="module")
def served(serve_for_module, directory, model):
    return serve_for_module(directory)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """The directory of a model whose texts are so long that they can be left, and waited for."""
    directory = tmp_path_factory.mktemp("models") / "chargpt"
    publish(directory, config=LONG_CONFIG)
    return directory


def until(holds):
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@torch.no_grad()
def likeliest(model, prompt, count):
    tokens = encoded(prompt)
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens[None])[0, -1:].argmax(1)])
    return decoded(tokens[len(prompt) :].tolist())


def test_it_writes_what_the_model_would(served, model):
    status, headers, answer = ask(served, "def f(", max_tokens=20, temperature=0)
    assert (status, headers["content-type"]) == (200, "application/json")
    version = answer.pop("model_version")
    assert answer == {
        "model_name": "chargpt",
        "text_output": likeliest(model, "def f(", 20),
        "details": {"finish_reason": "length"},
    }
    again = ask(served, "def f(", f"versions/{version}/generate", max_tokens=20, temperature=0)[2]
    assert again["text_output"] == answer["text_output"]


def test_a_stream_has_an_event_for_each_token_and_the_last_says_why(served):
    _, _, whole = ask(served, "while ", max_tokens=30, seed=3)
    found = stream(served, "while ", max_tokens=30, seed=3)
    assert "".join(event["text_output"] for event in found) == whole["text_output"]
    assert len(found) == 30
    assert [event.get("details") for event in found] == [None] * 29 + [{"finish_reason": "length"}]
    assert {(event["model_name"], event["model_version"]) for event in found} == {("chargpt", whole["model_version"])}


def test_details_have_the_tokens(served, model):
    _, _, answer = ask(served, "if x", max_tokens=3, temperature=0, details=True)
    tokens = answer["details"]["logprobs"]
    assert "".join(token["text"] for token in tokens) == answer["text_output"]
    with torch.no_grad():
        wanted = model(encoded("if x")[None])[0, -1].log_softmax(0)
    assert tokens[0]["id"] == wanted.argmax()
    assert tokens[0]["logprob"] == pytest.approx(wanted.max().item(), abs=1e-4)
    found = stream(served, "if x", max_tokens=3, temperature=0, details=True)
    assert [event["details"]["token"] for event in found] == tokens


def test_the_context_ends_a_text(served):
    _, _, answer = ask(served, "x" * 40, max_tokens=1000)
    assert len(answer["text_output"]) == CONFIG.context - 40
    assert answer["details"] == {"finish_reason": "length"}


def test_a_stop_ends_a_text_before_it(served):
    text = ask(served, "class", max_tokens=20, temperature=0)[2]["text_output"]
    stop = text[7:9]
    answer = ask(served, "class", max_tokens=20, temperature=0, stop=["\n\n\n", stop])[2]
    assert answer["text_output"] == text[: text.index(stop)]
    assert answer["details"] == {"finish_reason": "stop_sequence"}


def test_the_metadata_says_that_it_generates(served):
    with connection(served) as one:
        one.request("GET", PATH)
        answer = json.loads(one.getresponse().read())
    assert answer["properties"] == {"generate": "true", "context": "48"}
    assert answer["inputs"] == [{"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}]


@pytest.mark.parametrize("length", [1, 2, 47, 48])
def test_it_still_infers_texts_of_any_length(served, model, length):
    tokens = encoded("while x < 3: " * 4)[None, :length]
    status, answer = infer(served, tokens)
    assert status == 200, answer
    (output,) = answer["outputs"]
    assert output["shape"] == [1, length, 96]
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(output["data"]), model(tokens).flatten(), rtol=1e-4, atol=1e-4)


def test_a_text_that_is_too_long_to_infer_is_refused(served):
    status, answer = infer(served, torch.zeros(1, 49, dtype=torch.int64))
    assert status == 400
    assert answer["error"] == "input tokens: its shape is [1, 49], wanted a text of at most 48 tokens"


@pytest.mark.parametrize("token", [96, -1])
def test_a_token_that_there_is_not_is_refused(served, token):
    status, answer = infer(served, torch.tensor([[3, token, 95]]))
    assert status == 400
    assert answer["error"] == f"input tokens: found the token {token}, wanted tokens from 0 to 95"


@pytest.mark.parametrize("path", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("{", "the body is not JSON: "),
        ("[]", "the body must be a JSON object"),
        ("{}", "text_input: found None, wanted a text"),
        ('{"text_input": "a", "parameters": 1}', "parameters: wanted an object"),
        (request(""), "text_input: found no token, wanted at least one to go on from"),
        (request("x" * 100), "text_input: found 100 tokens, wanted at most 47"),
        (request("a", max_tokens=0), "parameters.max_tokens: found 0, wanted a whole number, at least 1"),
        (request("a", max_tokens=True), "parameters.max_tokens: found True, wanted a whole number, at least 1"),
        (request("a", temperature=-1), "parameters.temperature: found -1, wanted a number, at least 0"),
        (request("a", top_p=1.5), "parameters.top_p: found 1.5, wanted a number from 0 to 1"),
        (request("a", stop=["b", ""]), "parameters.stop: found ['b', ''], wanted a text that is not empty, or a list"),
        (request("a", stop=["b"] * 257), "parameters.stop: found ['b', 'b', 'b', 'b'"),
        (request("a", beams=2), "parameters.beams: it is not known, wanted one of max_tokens, temperature, top_k"),
        ('{"text_input": "a", "best_of": 2}', "parameters.best_of: it is not known, wanted one of max_tokens"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_does(served, path, body, wanted):
    with connection(served) as one:
        one.request("POST", PATH + path, body)
        answer = one.getresponse()
        assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
        assert json.loads(answer.read())["error"].startswith(wanted)


def test_parameters_may_stand_beside_the_text(served):
    with connection(served) as one:
        one.request("POST", PATH + "generate", json.dumps({"id": "7", "text_input": "a", "max_tokens": 5}))
        answer = json.loads(one.getresponse().read())
    assert (answer["id"], len(answer["text_output"])) == ("7", 5)


def test_a_model_that_does_not_generate_says_why(serve, affine):
    served = serve(affine, "--name", "chargpt")
    for path in ("generate", "generate_stream"):
        status, _, answer = ask(served, "a", path)
        assert status == 404
        assert answer["error"].endswith(
            " of chargpt does not generate text: when it was published, its recipe had no language_model"
        )


@pytest.mark.long
@pytest.mark.parametrize("steps", [[{"quantize": {"bits": 8}}], [{"quantize": {"mode": "dynamic"}}]])
def test_a_model_of_integers_writes(serve, tmp_path, steps):
    model = publish(tmp_path / "chargpt", steps)
    _, _, answer = ask(serve(tmp_path / "chargpt"), "import ", max_tokens=20, temperature=0)
    assert answer["text_output"] == likeliest(model, "import ", 20)


def test_many_at_once_write_what_each_would_alone(served):
    asked = [(f"x = {number}", {"max_tokens": 25, "seed": number}) for number in range(24)]
    wanted = [ask(served, text, **parameters)[2] for text, parameters in asked]
    found = [None] * len(asked)

    def fetch(number):
        text, parameters = asked[number]
        found[number] = stream(served, text, **parameters)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert ["".join(event["text_output"] for event in one) for one in found] == [one["text_output"] for one in wanted]


def test_it_counts(serve, directory, model):
    served = serve(directory)
    ask(served, "a", max_tokens=5)
    stream(served, "b", max_tokens=7)
    ask(served, "")
    assert counted(served, "muster_serve_generated_tokens_total") == 12
    assert counted(served, "muster_serve_first_token_seconds_count") == 2
    assert counted(served, 'muster_serve_requests_total{code="200",protocol="http"}') == 2
    assert counted(served, 'muster_serve_requests_total{code="400",protocol="http"}') == 1
    assert counted(served, 'muster_serve_sequences{state="active"}') == 0


def test_a_client_that_goes_frees_the_slot(serve, long):
    served = serve(long)
    streams = [begin(served, "a", max_tokens=LONG) for _ in range(4)]
    whole = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT) for _ in range(4)]
    for one in whole:
        one.request("POST", PATH + "generate", request("a", max_tokens=LONG))
    until(lambda: counted(served, 'muster_serve_sequences{state="active"}') == 8)
    waiting = begin_in_thread(served)
    for one, answer, _ in streams:
        answer.close()
        one.close()
    for one in whole:
        one.close()
    until(lambda: counted(served, 'muster_serve_sequences{state="active"}') == 0)
    waiting.join(LIMIT)
    assert counted(served, 'muster_serve_requests_total{code="499",protocol="http"}') == 8
    assert counted(served, "muster_serve_generated_tokens_total") < 8 * LONG / 2


def begin_in_thread(served):
    """Somebody who waits for a slot, and gets one of those that are left."""
    thread = threading.Thread(target=ask, args=(served, "a"), kwargs={"max_tokens": 1})
    thread.start()
    until(lambda: counted(served, 'muster_serve_sequences{state="waiting"}') == 1)
    return thread


def test_more_than_can_wait_are_told_to_come_again(serve, long):
    served = serve(long)
    others = []
    for count, state in ((8, "active"), (64, "waiting")):
        more = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT) for _ in range(count)]
        others += more
        for one in more:
            one.request("POST", PATH + "generate", request("a", max_tokens=LONG))
        name = f'muster_serve_sequences{{state="{state}"}}'
        until(lambda name=name, count=count: counted(served, name) == count)
    for path in ("generate", "generate_stream"):
        status, headers, answer = ask(served, "a", path)
        assert (status, headers["retry-after"]) == (503, "1")
        assert answer["error"] == "64 texts wait already to be generated: try again in a second"
    for one in others:
        one.close()


def test_a_text_that_takes_too_long_ends_with_an_error(serve, long):
    served = serve(long, "--request-seconds", "0.5")
    *found, last = stream(served, "a", max_tokens=LONG)
    assert len(found) > 10
    assert last == {"error": "no answer within 0.5 s"}
    status, _, answer = ask(served, "a", max_tokens=LONG)
    assert (status, answer["error"]) == (504, "no answer within 0.5 s")


@pytest.mark.long
def test_told_to_leave_it_finishes_what_it_writes(serve, long):
    served = serve(long)
    count = LONG // 4  # written before its time to leave is over, also on a busy machine
    one, answer, _ = begin(served, "a", max_tokens=count)
    served.process.terminate()
    found = list(events(answer))
    one.close()
    assert len(found) == count - 1
    assert found[-1]["details"] == {"finish_reason": "length"}
    assert served.process.wait(LIMIT) == 0


def test_while_it_writes_it_answers_others_at_once(serve, long):
    served = serve(long)
    streams = [begin(served, "a", max_tokens=LONG) for _ in range(8)]
    with connection(served) as one:
        took = []
        for _ in range(20):
            begun = time.perf_counter()
            one.request("GET", "/v2/health/ready")
            assert one.getresponse().read() == b'{"ready":true}'
            took.append(time.perf_counter() - begun)
    assert sorted(took)[10] < 0.05
    for other, answer, _ in streams:
        answer.close()
        other.close()
