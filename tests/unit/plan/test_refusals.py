"""The API server refuses pods: the job says so, and holds nothing half made."""

import pytest

from muster.plan import refusals
from muster.plan.conditions import find
from muster.plan.model import Refusal
from tests.unit.plan.fixtures import NOW, decide, job, names, pod, room, started

QUOTA = Refusal("exceeded quota: gpus, requested: 1, used: 2, limited: 2", at=NOW - 1)


def test_a_gang_that_was_made_in_part_is_taken_back():
    plan = decide(job(), pod(0), pod(1), refusal=QUOTA)
    assert [delete.name for delete in plan.deletes] == ["digits-0-1", "digits-1-1"]
    assert plan.creates == ()
    assert plan.demand is None
    assert plan.look_again == pytest.approx(1)
    admitted = find(plan.status["conditions"], "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("False", "PodsRefused")
    assert "exceeded quota" in admitted["message"]


def test_then_it_is_tried_again():
    status = decide(job(), pod(0), pod(1), refusal=QUOTA).status
    later = Refusal(QUOTA.message, at=NOW - 2)
    plan = decide(job() | {"status": status}, refusal=later, capacity=room())
    assert names(plan.creates) == ["digits-0-2", "digits-1-2", "digits-2-2"]
    assert plan.status["restartCount"] == 0


def test_the_successor_of_a_lost_worker_may_be_refused_too():
    running = started(job(), attempt=1)
    plan = decide(running, pod(0), pod(1), pod(2, phase="Failed"), refusal=QUOTA)
    assert plan.creates == plan.deletes == ()
    assert (plan.status["phase"], plan.status["reason"]) == ("Restarting", "PodsRefused")
    assert (plan.status["attempt"], plan.status["restartCount"]) == (1, 0)
    assert decide(running, pod(0), pod(1), pod(2, phase="Failed")).status["restartCount"] == 1


def test_a_job_that_needs_no_pod_does_not_mind():
    assert decide(started(job()), pod(0), pod(1), pod(2), refusal=QUOTA).status["reason"] != "PodsRefused"


@pytest.mark.parametrize(("times", "seconds"), [(1, 2), (2, 4), (4, 16), (7, 120), (50, 120)])
def test_the_pauses_grow(times, seconds):
    assert refusals.pause(Refusal("no", NOW, times), NOW) == pytest.approx(seconds)
