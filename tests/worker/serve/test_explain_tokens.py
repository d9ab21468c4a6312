"""What each token has to do with the next one, of a model that takes ids."""

from __future__ import annotations

import pytest
import torch

from muster_worker.serve.errors import RequestError
from muster_worker.serve.explain import Explaining
from muster_worker.serve.explain_tokens import TokenExplainer
from muster_worker.serve.model import ServedModel
from muster_worker.serve.protocol import InferRequest
from tests.worker.serve.writing import CONFIG, publish

CPU = torch.device("cpu")
IDS = torch.randint(96, (3, CONFIG.context), generator=torch.Generator().manual_seed(1))
EIGHT = [{"quantize": {"bits": 8}}]


def explainer(directory, method="integratedGradients", baseline=0.0, steps=()):
    publish(directory, steps)
    model = ServedModel.load(directory, CPU)
    return TokenExplainer(model, model.embedded, Explaining(method, baseline), at_once=2)


def explain(of, ids=IDS, **parameters):
    request = InferRequest("", (ids,), (), parameters)
    return of.explain([ids], of.question.target(request), lambda: True)


@pytest.mark.parametrize(
    ("steps", "length"),
    [((), CONFIG.context), ((), 5), (EIGHT, CONFIG.context)],
    ids=["floats", "a shorter text", "8 bits"],
)
def test_attributions_add_up_to_the_difference_of_the_outputs(tmp_path, steps, length):
    of, ids = explainer(tmp_path / "model", steps=steps), IDS[:, :length]
    attributions, target, delta = explain(of, ids)
    with torch.no_grad():
        model = ServedModel.load(tmp_path / "model", CPU)
        (there,), (nothing,) = model.compute([ids]), model.compute([torch.zeros_like(ids)])
    assert torch.equal(target, there[:, -1].argmax(dim=1)), "the likeliest next token"
    rows = torch.arange(3)
    difference = (there - nothing)[rows, -1, target]
    assert attributions.shape == ids.shape
    torch.testing.assert_close(attributions.sum(1) - delta, difference, rtol=1e-3, atol=1e-3)
    assert (delta.abs() < 0.05 * difference.abs().clamp_min(1.0)).all()


def test_a_token_that_is_the_baseline_has_nothing_to_do_with_it(tmp_path):
    ids = IDS.clone()
    ids[:, 5:9] = 7
    attributions, _, _ = explain(explainer(tmp_path / "model", baseline=7.0), ids)
    assert (attributions[:, 5:9] == 0).all()
    assert (attributions[:, :5] != 0).all()


def test_another_token_is_explained_where_it_is_asked_for(tmp_path):
    of = explainer(tmp_path / "model")
    _, target, _ = explain(of, target=[1, 2, 95])
    assert target.tolist() == [1, 2, 95]
    with pytest.raises(RequestError, match=r"parameters\.target: found 96, wanted the number of a class, below 96"):
        explain(of, target=96)


def test_what_is_served_beside_it_sees_nothing_of_it(tmp_path):
    publish(tmp_path / "model")
    model = ServedModel.load(tmp_path / "model", CPU)
    (before,) = model.compute([IDS])
    of = TokenExplainer(model, model.embedded, Explaining("integratedGradients"), at_once=2)
    during = []

    def goes_on():
        during.append(model.compute([IDS])[0])
        return True

    of.explain([IDS], None, goes_on)
    assert len(during) > 3
    assert all(torch.equal(one, before) for one in during)


@pytest.mark.parametrize(
    ("method", "baseline", "message"),
    [
        ("saliency", 0.0, "the method is saliency, wanted integratedGradients"),
        ("integratedGradients", 0.5, "the baseline is 0.5, wanted the id of a token"),
        ("integratedGradients", 96.0, "the baseline is 96, wanted the id of a token"),
    ],
)
def test_what_cannot_be_explained_says_why(tmp_path, method, baseline, message):
    with pytest.raises(RequestError, match=message):
        explain(explainer(tmp_path / "model", method, baseline))
