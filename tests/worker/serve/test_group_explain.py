"""Explanations by a replica of several processes: they are those of one, beside inference, whoever dies meanwhile."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest
import torch

from muster_worker.serve.explain import METHODS, Explaining
from muster_worker.serve.explain_tokens import explainer_of
from muster_worker.serve.model import ServedModel
from muster_worker.serve.protocol import InferRequest
from tests.worker.serve import writing
from tests.worker.serve.pods import ask, infer, until
from tests.worker.serve.reading import Reader
from tests.worker.serve.sleeping import Ponderer
from tests.worker.serve.test_explain import POINTS, Weighted, publish, tensor

pytestmark = pytest.mark.usefixtures("on_this_machine")


@pytest.fixture
def pondering(tmp_path):
    """Of a model that is explained in as many seconds as its first number says, and infers at once."""
    recipe = "tests.worker.serve.sleeping:Pondering"
    return publish(tmp_path / "pondering", Ponderer(), torch.ones(3, 4), recipe=recipe)


def explain(pods, *inputs, **parameters):
    """Status, and the outputs by name or the error."""
    request = {"inputs": inputs, "parameters": parameters}
    status, answer = ask(pods.port, "POST", "/v2/models/affine/explain", json.dumps(request))
    if status != 200:
        return status, answer["error"]
    return status, {one["name"]: torch.tensor(one["data"]).reshape(one["shape"]) for one in answer["outputs"]}


def explained_by_one(directory, inputs, method, target=None):
    explainer = explainer_of(ServedModel.load(directory, torch.device("cpu")), Explaining(method), at_once=1)
    parameters = {} if target is None else {"target": target}
    asked = explainer.question.target(InferRequest("", (inputs,), (), parameters))
    outputs = explainer.explain([inputs], asked, lambda: True)
    return dict(zip((spec.name for spec in explainer.question.signature.outputs), outputs, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("target", [None, [1, 0, 1]], ids=str)
@pytest.mark.parametrize("method", ["integratedGradients", "occlusion"])
def test_they_are_those_of_one_process(group, tmp_path, method, target):
    directory = publish(tmp_path / "weighted", Weighted(), torch.randn(3, 4))
    pods = group(directory, "--data", "2", "--explain", method, count=2)
    wanted = explained_by_one(directory, POINTS, method, target)
    for _ in range(3):  # whichever of both it is
        status, found = explain(pods, tensor("points", POINTS), **({} if target is None else {"target": target}))
        assert status == 200, found
        assert found.keys() == wanted.keys()
        for name, numbers in wanted.items():
            torch.testing.assert_close(found[name], numbers, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    """A model that can be divided."""
    directory = tmp_path_factory.mktemp("models") / "reading"
    return publish(directory, Reader().eval(), torch.rand(3, 4), recipe="tests.worker.serve.reading:Reading")


DIVIDED = [
    ("--tensor", "2"),
    ("--pipeline", "2"),
    ("--tensor", "2", "--pipeline", "2"),
    ("--data", "2", "--tensor", "2"),
]
WAYS = pytest.mark.parametrize("words", DIVIDED, ids=" ".join)


@pytest.mark.long
@WAYS
@pytest.mark.parametrize("method", METHODS)
def test_a_divided_model_is_explained_as_the_whole_one(group, reading, words, method):
    pods = group(reading, *words, "--explain", method, "--max-batch-size", "2")
    points = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))
    status, found = explain(pods, tensor("points", points))
    assert status == 200, found
    wanted = explained_by_one(reading, points, method)
    assert found.keys() == wanted.keys()
    for name, numbers in wanted.items():
        torch.testing.assert_close(found[name], numbers, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("words", [("--tensor", "2"), ("--pipeline", "2"), ("--pipeline", "3")], ids=" ".join)
def test_a_model_without_gradients_says_so_and_infers_as_before(group, tmp_path, words):
    recipe = "tests.worker.serve.reading:Undifferentiable"
    publish(tmp_path / "reading", Reader().eval(), torch.rand(3, 4), recipe=recipe)
    pods = group(tmp_path / "reading", *words, "--explain", "saliency")
    points = torch.ones(2, 4)
    wanted = infer(pods.port, points.numpy(), outputs=["output"])
    for _ in range(2):
        assert explain(pods, tensor("points", points)) == (500, "the model failed: ValueError: no gradients")
        assert infer(pods.port, points.numpy(), outputs=["output"])[1] == pytest.approx(wanted[1], rel=1e-4)
    assert pods.state()["death"] is None


@pytest.mark.long
@WAYS
def test_a_divided_model_that_loses_a_rank_is_explained_by_those_who_come(group, reading, words):
    pods = group(reading, *words, "--explain", "integratedGradients")
    pods.signal(signal.SIGKILL, "rank 1")
    status, found = explain(pods, tensor("points", torch.ones(2, 4)))
    assert (status, found["attributions.points"].shape) == (200, (2, 4))
    until(pods.is_ready)
    assert pods.state()["death"]["count"] == 1


@pytest.mark.long
@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("words", [("--data", "2"), *DIVIDED], ids=" ".join)
def test_a_text_is_explained(group, tmp_path, words, bits):
    writing.publish(tmp_path / "chargpt", [{"quantize": {"bits": bits}}] if bits < 32 else [])
    pods = group(tmp_path / "chargpt", *words, "--explain", "integratedGradients")
    ids = torch.randint(96, (1, 9), generator=torch.Generator().manual_seed(1))
    status, found = explain(pods, tensor("tokens", ids, "INT64"))
    assert status == 200, found
    for name, numbers in explained_by_one(tmp_path / "chargpt", ids, "integratedGradients").items():
        torch.testing.assert_close(found[name], numbers, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_texts_are_explained_together_as_each_alone(group, tmp_path):
    """A pipeline computes a batch in pieces, which are as many as its next power of two has room for."""
    writing.publish(tmp_path / "chargpt")
    pods = group(tmp_path / "chargpt", "--pipeline", "2", "--explain", "integratedGradients", "--max-batch-size", "4")
    ids = torch.randint(96, (3, 9), generator=torch.Generator().manual_seed(1))
    wanted = explained_by_one(tmp_path / "chargpt", ids, "integratedGradients")
    for _ in range(2):  # of shapes that are new, and of those that are known
        status, found = explain(pods, tensor("tokens", ids, "INT64"))
        assert status == 200, found
        for name, numbers in wanted.items():
            torch.testing.assert_close(found[name], numbers, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_what_does_not_fit_is_told_by_the_leader(group, tmp_path):
    pods = group(publish(tmp_path / "weighted", Weighted(), torch.randn(3, 4)), "--data", "2", "--explain", "saliency")
    points = tensor("points", POINTS)
    assert explain(pods, points, target=2) == (400, "parameters.target: found 2, wanted the number of a class, below 2")


@pytest.mark.long
def test_inference_goes_on_meanwhile(group, pondering):
    pods = group(pondering, "--data", "2", "--explain", "saliency")
    points = torch.tensor([[1.5, 0, 0, 0]])
    explaining = threading.Thread(target=explain, args=(pods, tensor("points", points)))
    explaining.start()
    answered, slowest = 0, 0.0
    while explaining.is_alive():
        begun = time.monotonic()
        status, found = infer(pods.port, points.repeat(2, 1).numpy())  # a part for each of both
        assert status == 200, found
        answered, slowest = answered + 1, max(slowest, time.monotonic() - begun)
    assert answered > 20
    assert slowest < 1.0, "one waited for the explanation"


@pytest.mark.long
def test_a_late_one_is_given_up_and_the_next_is_computed(group, pondering):
    """It would take six seconds, has two, and what it has begun then lasts a fifth of one."""
    pods = group(pondering, "--data", "2", "--explain", "saliency", "--request-seconds", "2")
    late = tensor("points", torch.tensor([[0.2, 0, 0, 0]] * 30))
    begun = time.monotonic()
    assert explain(pods, late) == (504, "no answer within 2 s")
    for _ in range(2):  # so many are there to compute
        status, found = explain(pods, tensor("points", torch.zeros(1, 4)))
        assert (status, found["target"].tolist()) == (200, [0])
    assert time.monotonic() - begun < 4
    assert pods.state()["death"] is None


@pytest.mark.long
def test_a_rank_whose_device_has_failed_by_an_explanation_is_followed_by_another(group, failing):
    pods = group(failing, "--data", "2", "--explain", "saliency")
    before = pods.process("rank 0"), pods.process("rank 1")
    words = "the model was not explained: AcceleratorError: device-side assert triggered"
    assert explain(pods, tensor("points", -torch.ones(1, 4))) == (500, words)
    until(pods.is_ready)
    assert len({*before, pods.process("rank 0"), pods.process("rank 1")}) == 3
    assert pods.state()["death"] is None


@pytest.mark.long
def test_a_rank_that_is_killed_costs_no_explanation(group, pondering):
    pods = group(pondering, "--data", "2", "--explain", "saliency")
    found = []
    points = tensor("points", torch.tensor([[2.0, 0, 0, 0]]))
    explaining = threading.Thread(target=lambda: found.append(explain(pods, points)))
    explaining.start()
    time.sleep(0.5)
    pods.signal(signal.SIGKILL, "rank 0")  # the first that is asked
    explaining.join()
    ((status, outputs),) = found
    assert (status, outputs["target"].tolist()) == (200, [0])
    until(pods.is_ready)
    assert pods.state()["death"]["count"] == 1
