"""What TorchServe cannot do is refused, with what to write."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from muster.api import ModelDeployment
from muster.api.errors import explain

from .manifests import deployment

GOOD = {"model": {"fromTrainingJob": "digits"}, "runtime": "torchserve"}


def test_it_is_taken_with_batching_and_a_canary_that_is_judged():
    spec = GOOD | {"batching": {"maxBatchSize": 8}, "canary": {"analysis": {"maxErrorRate": "0.01"}}}
    read = ModelDeployment.model_validate(deployment(**spec))
    assert (read.spec.runtime, read.spec.batching.max_batch_size) == ("torchserve", 8)


def test_a_group_is_refused():
    with pytest.raises(ValidationError) as refused:
        ModelDeployment.model_validate(deployment(**GOOD, group={"size": 2}))
    assert "spec.group: only the runtime torch knows of groups: leave this out" in explain(refused.value)
