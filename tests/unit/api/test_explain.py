"""Explanations are taken where they can be given, and refused elsewhere with what to write."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from muster.api import ModelDeployment
from muster.api.errors import explain

from .manifests import deployment

GOOD = {"model": {"fromTrainingJob": "digits"}, "explain": {"method": "integratedGradients"}}
CLAIM = {"persistentVolumeClaim": {"claimName": "models", "path": "linear/1"}}
WORKER = {"spec": {"containers": [{"name": "worker", "image": "mine:1"}]}}


@pytest.mark.parametrize(
    ("said", "baseline"),
    [
        ({"method": "integratedGradients"}, "zeros"),
        ({"method": "occlusion", "baseline": "-0.5"}, "-0.5"),
        ({"method": "saliency", "baseline": "zeros"}, "zeros"),
    ],
    ids=str,
)
def test_a_method_is_taken_with_what_it_compares_with(said: dict[str, Any], baseline: str):
    read = ModelDeployment.model_validate(deployment(**GOOD | {"explain": said, "group": {"size": 1}})).spec.explain
    assert read is not None
    assert (read.method, read.baseline) == (said["method"], baseline)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"explain": {}}, "spec.explain.method is missing: write it"),
        ({"explain": {"method": "gradients"}}, "spec.explain.method: "),
        ({"explain": {"method": "occlusion", "baseline": "mean"}}, "spec.explain.baseline: write zeros, or a decimal"),
        ({"explain": {"method": "occlusion", "baseline": "1e9"}}, "spec.explain.baseline: write zeros, or a decimal"),
        (
            {"explain": {"method": "saliency", "baseline": "0.5"}},
            "spec.explain.baseline: method is saliency, which compares with nothing: leave this out",
        ),
        ({"runtime": "torchserve"}, "spec.explain: only the runtime torch explains: leave this out"),
        ({"runtime": "custom", "template": WORKER}, "spec.explain: only the runtime torch explains: leave this out"),
        (
            {"runtime": "tensorflowServing", "model": CLAIM},
            "spec.explain: only the runtime torch explains: leave this out",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_explained_is_refused(change: dict[str, Any], sentence: str):
    with pytest.raises(ValidationError) as refused:
        ModelDeployment.model_validate(deployment(**GOOD | change))
    assert sentence in explain(refused.value)
