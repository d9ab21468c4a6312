"""Explanations, by servers as processes: right where the answer is known, bounded, and in nobody's way."""

from __future__ import annotations

import contextlib
import http.client
import json
import struct
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch import nn

from muster_worker.recipes.digits import Network
from muster_worker.serve.errors import ComputationError, RequestError
from muster_worker.serve.explain import PARTS, Explainer, Explaining, _part, captum_attr
from muster_worker.serve.explanations import WAITING
from muster_worker.serve.model import ServedModel
from muster_worker.serve.package import package, parse_input
from muster_worker.serve.protocol import InferRequest
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.export import Trained, export_model
from tests.worker.serve.conftest import ORIGIN
from tests.worker.serve.served import LIMIT
from tests.worker.serve.sleeping import Ponderer
from tests.worker.serve.test_package import scripted

WEIGHTS = torch.tensor([[1.0, -2.0, 3.0, 0.0], [-0.5, 4.0, 1.0, 2.0]])
POINTS = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-1.0, 0.5, 0.0, 2.0], [2.0, 2.0, 2.0, 2.0]])
DOCS = Path(__file__).parents[3] / "docs" / "serve.md"
METHODS = ("integratedGradients", "saliency", "occlusion")


class Weighted(nn.Module):
    """Of four numbers two classes, WEIGHTS times them and a bias."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        with torch.no_grad():
            self.linear.weight.copy_(WEIGHTS)
            self.linear.bias.copy_(torch.tensor([5.0, -3.0]))

    def forward(self, points):
        return self.linear(points)


class Masked(nn.Module):
    """One number a sample: the squares of `first`, where `mask` is 1, plus three times `second`."""

    def forward(self, mask, first, second):
        return (mask * first**2).sum(1) + 3 * second


class Looked(nn.Module):
    """Two classes of a sequence of token ids."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(10, 2)

    def forward(self, ids):
        return self.embedding(ids)


def publish(directory, model, *examples, recipe=ORIGIN["recipe"]):
    export_model(directory, Trained(model, examples, {}, ORIGIN | {"recipe": recipe}), "token")
    return directory


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("models") / "weighted", Weighted(), torch.randn(3, 4))


@pytest.fixture(scope="module")
def pondering(tmp_path_factory, serve_for_module):
    """A server that is explained in as many seconds as its first number says, and infers at once."""
    directory = publish(
        tmp_path_factory.mktemp("models") / "pondering",
        Ponderer(),
        torch.ones(3, 4),
        recipe="tests.worker.serve.sleeping:Pondering",
    )
    return serve_for_module(directory, "--explain", "saliency", "--request-seconds", "2")


@pytest.fixture(scope="module")
def explained(serve_for_module, weighted):
    """One server of `weighted` for each method and baseline."""
    kept = {}

    def server(method):
        if method not in kept:
            kept[method] = serve_for_module(weighted, "--explain", method, "--max-batch-size", "2")
        return kept[method]

    return server


def explainer(directory, method, at_once=1):
    """Of the same model, in this process."""
    return Explainer(ServedModel.load(directory, torch.device("cpu")), Explaining(method), at_once)


def tensor(name, values, datatype="FP32"):
    return {"name": name, "datatype": datatype, "shape": list(values.shape), "data": values.flatten().tolist()}


def ask(served, path, request=None, method="POST"):
    """Status, headers and the answer."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT)) as connection:
        connection.request(method, path, None if request is None else json.dumps(request))
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())


def explain(served, model, *inputs, target=None, **more):
    """The outputs of an explanation by name."""
    parameters = {} if target is None else {"parameters": {"target": target}}
    status, _, answer = ask(served, f"/v2/models/{model}/explain", {"inputs": inputs} | parameters | more)
    assert status == 200, answer
    return {one["name"]: torch.tensor(one["data"]).reshape(one["shape"]) for one in answer["outputs"]}


def refusal(served, model, **request):
    status, _, answer = ask(served, f"/v2/models/{model}/explain", request)
    return status, answer["error"]


def infer(served, model, *inputs):
    """The first output."""
    status, _, answer = ask(served, f"/v2/models/{model}/infer", {"inputs": inputs})
    assert status == 200, answer
    return torch.tensor(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"])


def counted(served, name):
    """What /metrics says, by the values of the labels."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT)) as connection:
        connection.request("GET", "/metrics")
        families = text_string_to_metric_families(connection.getresponse().read().decode())
        samples = [sample for family in families for sample in family.samples]
    return {tuple(sorted(one.labels.values())): one.value for one in samples if one.name == name}


@pytest.mark.long
@pytest.mark.parametrize("target", [None, 0, 1, [1, 0, 1]], ids=str)
@pytest.mark.parametrize(
    ("method", "of"),
    [
        ("integratedGradients", lambda weights: weights * POINTS),
        ("integratedGradients:0.5", lambda weights: weights * (POINTS - 0.5)),
        ("integratedGradients:-2", lambda weights: weights * (POINTS + 2)),
        ("saliency", lambda weights: weights.abs()),
        ("occlusion", lambda weights: weights * POINTS),
        ("occlusion:0.5", lambda weights: weights * (POINTS - 0.5)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_affine_model_is_explained_exactly(explained, method, of, target):
    classes = torch.tensor(target).expand(3) if target is not None else Weighted()(POINTS).argmax(dim=1)
    found = explain(explained(method), "weighted", tensor("points", POINTS), target=target)
    torch.testing.assert_close(found["attributions.points"], of(WEIGHTS[classes]), rtol=1e-4, atol=1e-4)
    assert found["target"].tolist() == classes.tolist()
    if method.startswith("integratedGradients"):
        torch.testing.assert_close(found["delta"], torch.zeros(3), rtol=0, atol=1e-4)
    else:
        assert "delta" not in found


def test_the_answer_is_that_of_the_protocol(explained):
    served = explained("integratedGradients")
    request = {"id": "seven", "inputs": [tensor("points", POINTS[:1])], "parameters": {"target": 0}}
    status, headers, answer = ask(served, "/v2/models/weighted/explain", request)
    assert (status, headers["content-type"]) == (200, "application/json")
    _, _, about = ask(served, "/v2/models/weighted", method="GET")
    assert {name: answer[name] for name in ("id", "model_name", "model_version")} == {
        "id": "seven",
        "model_name": "weighted",
        "model_version": about["versions"][0],
    }
    described = [(one["name"], one["datatype"], one["shape"]) for one in answer["outputs"]]
    assert described == [("attributions.points", "FP32", [1, 4]), ("target", "INT64", [1]), ("delta", "FP32", [1])]
    version = about["versions"][0]
    assert ask(served, f"/v2/models/weighted/versions/{version}/explain", request)[0] == 200


def test_it_is_asked_and_answers_in_bytes(explained):
    given = {"name": "points", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    asked = [{"name": "attributions.points", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [given], "outputs": asked, "parameters": {"target": 1}}).encode()
    served = explained("integratedGradients")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT)) as connection:
        length = {"Inference-Header-Content-Length": str(len(head))}
        connection.request("POST", "/v2/models/weighted/explain", head + struct.pack("<4f", 1, 2, 3, 4), length)
        answer = connection.getresponse()
        size, body = int(answer.headers["inference-header-content-length"]), answer.read()
    (output,) = json.loads(body[:size])["outputs"]
    assert output["parameters"] == {"binary_data_size": 16}
    assert struct.unpack("<4f", body[size:]) == pytest.approx((-0.5, 8, 3, 8), abs=1e-4)


@pytest.mark.parametrize("batch", [1, 32])
def test_the_attributions_of_a_network_add_up_to_the_difference_of_its_outputs(serve, tmp_path, batch):
    torch.manual_seed(1)
    directory = publish(tmp_path / "digits", Network(8), torch.rand(4, 1, 8, 8))
    served = serve(directory, "--explain", "integratedGradients:0.25", "--max-batch-size", str(batch))
    images = torch.rand(5, 1, 8, 8)
    found = explain(served, "digits", tensor("images", images))
    outputs = infer(served, "digits", tensor("images", images))
    (baseline,) = infer(served, "digits", tensor("images", torch.full((1, 1, 8, 8), 0.25)))
    assert found["target"].tolist() == outputs.argmax(dim=1).tolist()
    difference = (outputs - baseline).gather(1, found["target"].unsqueeze(1)).squeeze(1)
    total = found["attributions.images"].sum(dim=(1, 2, 3))
    # By captum's fifty steps, of a function with as many bends as it has units.
    torch.testing.assert_close(total, difference, rtol=0, atol=0.01)
    torch.testing.assert_close(found["delta"], total - difference, rtol=0, atol=1e-4)


def test_the_example_of_the_docs_is_answered(serve, tmp_path):
    request = json.loads(DOCS.read_text().partition("<<'END'\n")[2].partition("\nEND\n")[0])
    served = serve(publish(tmp_path / "digits", Network(8), torch.rand(4, 1, 8, 8)), "--explain", "saliency")
    assert explain(served, "digits", *request["inputs"])["attributions.images"].shape == (1, 1, 8, 8)


@pytest.mark.parametrize("at_once", [2, 7])
@pytest.mark.parametrize("method", METHODS)
def test_each_input_of_floating_point_numbers_has_attributions_and_others_stay_as_they_are(tmp_path, method, at_once):
    examples = torch.ones(3, 2, dtype=torch.int64), torch.rand(3, 2), torch.rand(3)
    masked = explainer(publish(tmp_path / "masked", Masked(), *examples), method, at_once)
    mask, first = torch.tensor([[1, 0], [1, 1], [0, 0]]), torch.tensor([[2.0, 3], [4, 5], [6, 7]])
    found = masked.explain([mask, first, torch.ones(3)], None, goes_on=lambda: True)
    names = [spec.name for spec in masked.question.signature.outputs]
    assert names[:3] == ["attributions.first", "attributions.second", "target"]
    assert names[3:] == (["delta"] if method == "integratedGradients" else [])
    torch.testing.assert_close(found[0], mask * (2 * first if method == "saliency" else first**2), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1], torch.full((3,), 3.0), rtol=1e-3, atol=1e-3)
    assert found[2].tolist() == [0, 0, 0]


def test_torchscript_is_explained(serve, tmp_path):
    scripted(tmp_path / "model.pt", Weighted())
    package(tmp_path / "model.pt", tmp_path / "scripted", [parse_input("points:FP32:-1,4")])
    served = serve(tmp_path / "scripted", "--explain", "integratedGradients")
    for _ in range(3):  # its interpreter changes the program with what it sees
        found = explain(served, "scripted", tensor("points", POINTS), target=1)
        torch.testing.assert_close(found["attributions.points"], WEIGHTS[1] * POINTS, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "part"), [((4,), (1,)), ((1, 8, 8), (1, 1, 1)), ((3, 224, 224), (3, 14, 14)), ((), ()), ((257,), (2,))]
)
def test_what_has_many_numbers_is_occluded_part_by_part(shape, part):
    assert PARTS == 256
    assert _part(shape) == part


def test_without_the_flag_the_field_to_write_is_named(serve, weighted):
    served = serve(weighted)
    status, sentence = refusal(served, "weighted", inputs=[tensor("points", POINTS)])
    assert status == 404
    assert "of weighted is not explained: write spec.explain, such as {method: integratedGradients}" in sentence
    assert "--explain integratedGradients" in sentence


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"parameters": {"target": 2}}, "parameters.target: found 2, wanted the number of a class, below 2"),
        ({"parameters": {"target": -1}}, "parameters.target: found -1, wanted the number of a class, below 2"),
        ({"parameters": {"target": True}}, "parameters.target: found True, wanted the number of a class, below 2"),
        ({"parameters": {"target": "one"}}, "parameters.target: found 'one', wanted the number of a class, below 2"),
        ({"parameters": {"target": [0, 1, 2]}}, "parameters.target: found 2, wanted the number of a class, below 2"),
        ({"parameters": {"target": [0]}}, "parameters.target: found 1 classes, wanted one, or one for each sample"),
        ({"inputs": [tensor("points", POINTS, "FP64")]}, "input points: its datatype is FP64, wanted FP32"),
        ({"inputs": []}, "input points: missing"),
        (
            {"outputs": [{"name": "output"}]},
            "output output: the model has none of that name, it has attributions.points, target, delta",
        ),
    ],
    ids=str,
)
def test_a_request_that_does_not_fit_is_told_what_does(explained, change, wanted):
    request = {"inputs": [tensor("points", POINTS)]} | change
    assert refusal(explained("integratedGradients"), "weighted", **request) == (400, wanted)


def test_only_posts_of_the_model_that_is_served_are_explained(explained):
    served = explained("integratedGradients")
    assert ask(served, "/v2/models/weighted/explain", method="GET")[0] == 405
    assert refusal(served, "other", inputs=[]) == (404, "model other: not here, weighted is")


def test_token_ids_are_refused(serve, tmp_path):
    directory = publish(tmp_path / "looked", Looked(), torch.ones(3, 5, dtype=torch.int64))
    served = serve(directory, "--explain", "integratedGradients")
    found = refusal(served, "looked", inputs=[tensor("ids", torch.ones(1, 5, dtype=torch.int64), "INT64")])
    assert found == (
        400,
        "explain: the model takes ids INT64, wanted an input of FP16, BF16, FP32, FP64: others have no gradient",
    )


class Compared(nn.Module):
    """Gives no numbers."""

    def forward(self, points):
        return points > 0


class Framed(nn.Module):
    """Gives classes for each of several places."""

    def forward(self, points):
        return points.unsqueeze(1)


class Fixed(nn.Module):
    """Gives one answer, however many samples there are."""

    def forward(self, points):
        return points.sum(0)


class Detached(nn.Module):
    def forward(self, points):
        return points.detach() * 2


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (
            Compared(),
            r"explain: the output output is BOOL \[-1, 4\], wanted one of FP16, BF16, FP32, FP64 with the shape",
        ),
        (
            Framed(),
            r"explain: the output output is FP32 \[-1, 1, 4\], wanted one of .* the shape \[-1, CLASSES\] or \[-1\]",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_output_without_classes_is_refused(tmp_path, model, wanted):
    refusing = explainer(publish(tmp_path / "model", model, torch.rand(3, 4)), "saliency")
    with pytest.raises(RequestError, match=wanted):
        refusing.question.target(InferRequest("", (POINTS,), ()))


def test_a_model_that_does_not_take_any_number_of_samples_is_refused(tmp_path):
    scripted(tmp_path / "model.pt", Fixed())
    package(tmp_path / "model.pt", tmp_path / "fixed", [parse_input("points:FP32:-1,4")])
    with pytest.raises(RequestError, match="explain: the model takes or gives a fixed number of samples, wanted any"):
        explainer(tmp_path / "fixed", "saliency").question.target(InferRequest("", (POINTS,), ()))


@pytest.mark.parametrize("method", ["integratedGradients", "saliency"])
def test_a_model_without_gradients_says_so_in_torchs_words(tmp_path, method):
    failing = explainer(publish(tmp_path / "detached", Detached(), torch.rand(3, 4)), method)
    with pytest.raises(ComputationError, match=r"the model was not explained: RuntimeError: .* does not require grad"):
        failing.explain([POINTS], None, goes_on=lambda: True)


def test_inference_goes_on_meanwhile(pondering):
    points = torch.tensor([[1.5, 0, 0, 0]])
    explaining = threading.Thread(target=explain, args=(pondering, "pondering", tensor("points", points)))
    explaining.start()
    answered, slowest = 0, 0.0
    while explaining.is_alive():
        begun = time.monotonic()
        infer(pondering, "pondering", tensor("points", points))
        answered, slowest = answered + 1, max(slowest, time.monotonic() - begun)
    assert answered > 20
    assert slowest < 1.0, "one waited for the explanation"


def test_a_late_explanation_is_given_up_and_the_next_is_computed(pondering):
    """It would take six seconds, has two, and what it has begun then lasts a fifth of one."""
    late = torch.tensor([[0.2, 0, 0, 0]] * 30)
    begun = time.monotonic()
    assert refusal(pondering, "pondering", inputs=[tensor("points", late)]) == (504, "no answer within 2 s")
    assert explain(pondering, "pondering", tensor("points", torch.zeros(1, 4)))["target"].tolist() == [0]
    assert time.monotonic() - begun < 4
    codes = counted(pondering, "muster_serve_explanations_total")
    assert codes["504",] == 1
    assert codes["200",] >= 1
    assert counted(pondering, "muster_serve_requests_total").keys() <= {("200", "http")}, "by which it is judged"


def test_more_than_may_wait_are_sent_away(pondering):
    found, together = [], threading.Barrier(WAITING + 4)

    def one():
        together.wait(LIMIT)
        request = {"inputs": [tensor("points", torch.tensor([[0.1, 0, 0, 0]]))]}
        found.append(ask(pondering, "/v2/models/pondering/explain", request))

    threads = [threading.Thread(target=one) for _ in range(WAITING + 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    refused = [(headers["retry-after"], answer["error"]) for status, headers, answer in found if status == 503]
    assert len(found) - len(refused) >= WAITING + 1
    assert set(refused) == {("1", f"{WAITING} explanations wait already: try again in a second")}
    assert {status for status, _, _ in found} == {200, 503}


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["gradients"], "argument --explain: found gradients, wanted integratedGradients, saliency or occlusion"),
        (["saliency:1"], "argument --explain: found saliency:1, wanted saliency alone: it compares with nothing"),
        (
            ["occlusion:half"],
            "argument --explain: found occlusion:half, wanted a number behind the colon, such as occlusion:0.5",
        ),
        (["occlusion:inf"], "argument --explain: found occlusion:inf, wanted a number behind the colon"),
    ],
    ids=str,
)
def test_wrong_words_are_named(serve, weighted, words, wanted):
    served = serve(weighted, "--explain", *words, ready=False)
    assert wanted in served.rest()
    assert served.process.returncode == 2


def test_an_image_without_captum_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ConfigurationError, match=r"this image has no captum .* 'muster-worker\[explain\]'"):
        captum_attr()
