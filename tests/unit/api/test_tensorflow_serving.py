"""What TensorFlow's model server cannot do is refused, with what to write."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from muster.api import ModelDeployment
from muster.api.errors import explain

from .manifests import deployment

GOOD = {"model": {"persistentVolumeClaim": {"claimName": "models", "path": "linear/1"}}, "runtime": "tensorflowServing"}


def test_a_saved_model_on_a_volume_is_taken_with_batching_and_a_canary_that_is_not_judged():
    spec = GOOD | {"batching": {"maxBatchSize": 8}, "canary": {"steps": [{"weight": 50}]}}
    read = ModelDeployment.model_validate(deployment(**spec))
    assert (read.spec.runtime, read.spec.batching.max_batch_size) == ("tensorflowServing", 8)


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        ({"model": {"fromTrainingJob": "digits"}}, "spec.model:", "name its persistentVolumeClaim"),
        ({"model": {"uri": "s3://models/linear"}}, "spec.model:", "name its persistentVolumeClaim"),
        ({"model": GOOD["model"] | {"sha256": "a" * 64}}, "spec.model.sha256:", "verify a checksum"),
        ({"group": {"size": 2}}, "spec.group:", "only the runtime torch knows of groups"),
        (
            {"canary": {"analysis": {}}},
            "spec.canary.analysis:",
            "only the runtimes torch and torchserve tell of errors",
        ),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_refused(change: dict[str, Any], field: str, sentence: str):
    with pytest.raises(ValidationError) as refused:
        ModelDeployment.model_validate(deployment(**GOOD | change))
    assert field in explain(refused.value)
    assert sentence in explain(refused.value)
