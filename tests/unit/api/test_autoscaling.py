"""Targets that no autoscaler takes are refused with what to write."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from muster.api import ModelDeployment
from muster.api.errors import explain

from .manifests import deployment


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"target": "0"}, 'spec.autoscaling.target: write a decimal number above 0 in quotes, like "0.1", found 0'),
        ({"target": "0.4", "metric": "cpu"}, 'spec.autoscaling.target: cpu is in per cent: write at least "1"'),
        (
            {"target": "5", "minReplicas": 5},
            "spec.autoscaling.maxReplicas: minReplicas is above maxReplicas: raise the",
        ),
    ],
    ids=str,
)
def test_what_no_autoscaler_takes_is_refused(said: dict[str, Any], sentence: str):
    spec = {"model": {"fromTrainingJob": "digits"}, "autoscaling": {"maxReplicas": 4} | said}
    with pytest.raises(ValidationError) as refused:
        ModelDeployment.model_validate(deployment(**spec))
    assert sentence in explain(refused.value)
