"""`ttlSecondsAfterFinished`: the job goes, and with it all that it owns."""

import pytest

from muster.plan.model import Delete
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW, UID, decide, job, pod, started


def over(ago, **spec):
    complete = {"type": "Complete", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "t"}
    end = to_timestamp(NOW - ago)
    return started(job(**spec), phase="Succeeded", conditions=[complete], completionTime=end)


def test_a_job_without_a_limit_stays():
    plan = decide(over(ago=1_000_000))
    assert plan.deletes == ()
    assert plan.look_again is None


def test_a_job_is_kept_for_as_long_as_it_says():
    plan = decide(over(ago=20, ttlSecondsAfterFinished=60), pod(0, phase="Succeeded"))
    assert plan.deletes == ()
    assert plan.look_again == pytest.approx(40)


@pytest.mark.parametrize(("ago", "ttl"), [(60, 60), (0, 0)])
def test_then_it_is_deleted(ago, ttl):
    assert decide(over(ago, ttlSecondsAfterFinished=ttl)).deletes == (Delete("TrainingJob", "digits", UID),)
