"""Workers without a place: the gang is taken back whole, so that others can use what it held."""

import pytest

from muster.plan.conditions import find
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW, decide, job, names, pod, report, room, started


def unplaced(rank, seconds, attempt=1):
    without = pod(rank, attempt, phase="Pending", node=None)
    said = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available",
        "lastTransitionTime": to_timestamp(NOW - seconds),
    }
    return without | {"status": {"phase": "Pending", "conditions": [said]}}


def test_for_a_while_it_is_only_told():
    plan = decide(started(job(), phase="Starting"), pod(0), pod(1), unplaced(2, 20))
    assert plan.deletes == ()
    assert plan.status["reason"] == "Unschedulable"
    assert "0/3 nodes are available" in plan.status["message"]
    assert plan.look_again == pytest.approx(40)


def test_then_all_are_taken_back_and_the_job_waits_again():
    plan = decide(started(job(), phase="Starting"), pod(0), pod(1, phase="Failed"), unplaced(2, 60))
    assert [delete.name for delete in plan.deletes] == ["digits-0-1", "digits-2-1"]
    assert plan.creates == ()
    admitted = find(plan.status["conditions"], "Admitted")
    assert (plan.status["phase"], admitted["status"], admitted["reason"]) == ("Queued", "False", "TakenBack")
    assert "digits-2-1 found no place: 0/3 nodes are available" in admitted["message"]


def test_admitted_again_it_goes_on_without_a_restart_and_is_given_more_time():
    back = decide(started(job(), phase="Starting"), pod(0), pod(1), unplaced(2, 60)).status
    again = decide(job() | {"status": back}, capacity=room())
    assert names(again.creates) == ["digits-0-2", "digits-1-2", "digits-2-2"]
    assert (again.status["plannedAttempts"], again.status["restartCount"]) == (1, 0)
    gang = pod(0, 2), pod(1, 2), unplaced(2, 60, attempt=2)
    assert decide(job() | {"status": again.status}, *gang).deletes == ()


def test_a_lost_workers_successor_that_finds_no_place_gives_the_others_place_back_too():
    gang = pod(0), pod(1), unplaced(2, 60, attempt=2)
    said = {"uid-digits-0-1": report(phase="Waiting")}
    plan = decide(started(job(), attempt=2, phase="Restarting"), *gang, reports=said)
    assert [delete.name for delete in plan.deletes] == ["digits-0-1", "digits-1-1", "digits-2-2"]
    assert plan.status["phase"] == "Queued"


def test_without_a_gang_it_is_left_to_the_scheduler():
    loose = started(job(scheduling={"gang": "none"}), phase="Starting")
    assert decide(loose, pod(0), pod(1), unplaced(2, 3600)).deletes == ()
