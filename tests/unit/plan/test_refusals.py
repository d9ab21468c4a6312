"""The API server refuses pods: the job says so, and holds nothing half made."""

import pytest

from muster.plan import refusals
from muster.plan.conditions import find
from muster.plan.model import Refusal
from tests.unit.plan.fixtures import NOW, decide, job, names, pod, report, room, started

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


GROWS = {"elastic": {"minReplicas": 1, "maxReplicas": 8}, "failurePolicy": {"maxRestarts": 0}}
TWO = pod(0), pod(1)


def both_train(**more):
    members = [{"pod": f"digits-{rank}-1"} for rank in range(2)]
    return {"uid-digits-0-1": report(attempt=1, phase="Running", members=members, **more)}


def test_workers_that_are_to_be_added_may_be_refused_and_the_others_train_on():
    """They are no lost ones: nothing is restarted, and nothing of it is counted."""
    resource = started(job(replicas=2, **GROWS), wantedReplicas=2, replicas=2, readyReplicas=2)
    resource["spec"]["replicas"] = 3
    for seconds in (0.1, 0.2, 0.9):
        answer = decide(resource, *TWO, reports=both_train(), refusal=QUOTA, now=NOW + seconds)
        assert (answer.creates, answer.deletes) == ((), ())
        assert [one.pod_uid for one in answer.scrape] == ["uid-digits-0-1"]
        resource |= {"status": answer.status or resource["status"]}
    status = resource["status"]
    assert (status["phase"], status["wantedReplicas"], status["restartCount"]) == ("Running", 2, 0)
    assert status["message"].endswith("; workers to be added are refused: " + QUOTA.message)
    assert names(decide(resource, *TWO, reports=both_train(), now=NOW + 3).creates) == ["digits-2-2"]


def test_an_elastic_group_that_goes_on_without_a_lost_one_is_still_asked():
    resource = started(job(replicas=3, elastic=GROWS["elastic"]), wantedReplicas=3, attempt=1)
    lost = pod(2, phase="Failed")
    answer = decide(resource, *TWO, lost, reports=both_train(), refusal=QUOTA)
    assert (answer.creates, [one.pod_uid for one in answer.scrape]) == ((), ["uid-digits-0-1"])
    assert answer.status["phase"] == "Running"
    assert "the successors of lost workers are refused: exceeded quota" in answer.status["message"]


def test_a_job_that_needs_no_pod_does_not_mind():
    assert decide(started(job()), pod(0), pod(1), pod(2), refusal=QUOTA).status["reason"] != "PodsRefused"


@pytest.mark.parametrize(("times", "seconds"), [(1, 2), (2, 4), (4, 16), (7, 120), (50, 120)])
def test_the_pauses_grow(times, seconds):
    assert refusals.pause(Refusal("no", NOW, times), NOW) == pytest.approx(seconds)


def test_a_clock_that_was_set_back_makes_no_pause_longer():
    assert refusals.pause(Refusal("no", NOW + 3600), NOW) is None
