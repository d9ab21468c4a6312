"""Templates that say what no pod can have: the planners pass it on, and the API server says what is wrong with it."""

from __future__ import annotations

import pytest

from muster.api.core_v1 import CONTAINER_FIELDS, POD_FIELDS
from tests.unit.plan import fixtures as training
from tests.unit.plan.serving import fixtures as serving

WRONG = ("x", 1, True, [], {}, ["x"], [1], [None], [{}], [{"name": 1}], {"a": 1}, {"a": None})


def planned(template):
    """A pod of a job and one of a deployment."""
    job = training.started_at_once(template=template)
    deployment = serving.decide(serving.deployment(template=template))
    return job.creates[0]["spec"], deployment.creates[0]["spec"]


def is_passed_on(value, made):
    """What is of another form than Muster's own takes its place; what is not, or says nothing, is merged with it."""
    return made == value or isinstance(made, type(value)) or not value


@pytest.mark.parametrize("value", WRONG, ids=str)
@pytest.mark.parametrize("field", sorted(POD_FIELDS))
def test_a_pod_is_planned_all_the_same(field, value):
    for pod in planned({"spec": {field: value}}):
        assert is_passed_on(value, pod[field])


@pytest.mark.parametrize("value", WRONG, ids=str)
@pytest.mark.parametrize("field", sorted(CONTAINER_FIELDS))
def test_so_is_its_container(field, value):
    for pod in planned({"spec": {"containers": [{"name": "worker", field: value}]}}):
        assert is_passed_on(value, pod["containers"][0][field])
