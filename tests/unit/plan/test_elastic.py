"""Workers come and go while an elastic job trains; only what fails is a restart."""

import pytest

from muster.plan.conditions import is_true
from tests.unit.plan.fixtures import NOW, decide, job, names, node, nodes, pod, report, room, started

ELASTIC = {"elastic": {"minReplicas": 2, "maxReplicas": 8}}
LEADER = "uid-digits-0-1"


def grown_to(replicas, was=3, **status):
    """A job whose pods were made for `was` workers and that is to have `replicas` now."""
    return started(job(**ELASTIC, replicas=replicas), wantedReplicas=was, **status)


def trains(*ranks, attempt=1, **state):
    """What the leader says of a group of the first pods of these ranks."""
    members = [{"rank": rank, "pod": f"digits-{rank}-1", "silentSeconds": 0.1} for rank in ranks]
    return {LEADER: report(attempt=attempt, members=members, **state)}


THREE = pod(0), pod(1), pod(2)


def test_added_workers_get_pods_of_a_new_attempt_and_that_is_no_restart():
    plan = decide(grown_to(5), *THREE, reports=trains(0, 1, 2))
    assert names(plan.creates) == ["digits-3-2", "digits-4-2"]
    assert plan.deletes == ()
    status = plan.status
    assert (status["attempt"], status["plannedAttempts"], status["restartCount"]) == (2, 1, 0)
    assert (status["phase"], status["wantedReplicas"], status["workers"]) == ("Running", 5, "3/5")
    assert status["message"] == "3 of 5 workers train; the others join them when they run"
    assert "restarts" not in status


def test_given_a_crash_in_the_middle_of_growing_then_only_the_missing_pods_are_made():
    plan = decide(grown_to(5), *THREE, pod(3, attempt=2, phase="Pending"), reports=trains(0, 1, 2))
    assert names(plan.creates) == ["digits-4-2"]
    assert (plan.status["attempt"], plan.status["plannedAttempts"], plan.status["restartCount"]) == (2, 1, 0)


def test_workers_that_are_not_wanted_any_more_are_asked_to_leave():
    plan = decide(grown_to(2), *THREE, reports=trains(0, 1, 2))
    assert [(delete.name, delete.grace_seconds) for delete in plan.deletes] == [("digits-2-1", None)]
    assert plan.creates == ()
    assert (plan.status["attempt"], plan.status["restartCount"], plan.status["wantedReplicas"]) == (1, 0, 2)


def test_a_rank_is_given_again_only_once_its_last_holder_has_left():
    leaving = grown_to(3, was=2)
    waits = decide(leaving, pod(0), pod(1), pod(2, deleting=True), reports=trains(0, 1))
    assert waits.creates == waits.deletes == ()
    assert waits.status["wantedReplicas"] == 2
    assert names(decide(leaving, pod(0), pod(1), reports=trains(0, 1)).creates) == ["digits-2-2"]


def test_a_worker_that_is_wanted_again_before_it_was_told_to_leave_stays():
    plan = decide(grown_to(3, was=2), *THREE, reports=trains(0, 1, 2))
    assert plan.creates == plan.deletes == ()
    assert (plan.status["wantedReplicas"], plan.status["attempt"], plan.status["workers"]) == (3, 1, "3/3")


def test_a_job_that_lost_a_worker_is_running_as_long_as_the_others_train():
    gang = pod(0), pod(1), pod(2, attempt=2, phase="Pending")
    status = decide(grown_to(3, attempt=2), *gang, reports=trains(0, 1)).status
    assert is_true(status["conditions"], "Running")
    assert (status["workers"], status["message"]) == ("2/3", "2 of 3 workers train; the others join them when they run")


def test_a_group_with_a_member_that_does_not_run_is_not_believed():
    gang = pod(0), pod(1), pod(2, attempt=2, phase="Pending")
    assert decide(grown_to(3, attempt=2), *gang, reports=trains(0, 1, 2)).status["phase"] == "Restarting"


SILENT = {"attempt": 1, "cause": "Silent", "rank": 2, "pod": "digits-2-1", "at": NOW - 20,
          "message": "digits-2-1 did not answer for 3 s", "recoverySeconds": 4.1, "stepsLost": 7}  # fmt: skip
CUT_OFF = nodes(node("node-1"), node("node-2", ready="Unknown", since=NOW - 1))


def test_what_the_agents_have_recovered_from_is_one_restart_with_their_figures_and_the_operators_cause():
    gang = pod(0), pod(1), pod(2, node="node-2")
    said = trains(0, 1, attempt=2, restarts=[SILENT])
    plan = decide(grown_to(3), *gang, reports=said, nodes=CUT_OFF)
    assert names(plan.creates) == ["digits-2-2"]
    assert (plan.status["attempt"], plan.status["restartCount"]) == (2, 1)
    record = plan.status["restarts"][0]
    assert (record["cause"], record["node"], record["pod"]) == ("NodeLost", "node-2", "digits-2-1")
    assert (record["recoverySeconds"], record["stepsLost"]) == ("4.1", 7)
    gang = *gang, pod(2, attempt=2, phase="Pending")
    again = decide(job(**ELASTIC) | {"status": plan.status}, *gang, reports=said, nodes=CUT_OFF)
    assert again.creates == ()
    assert [delete.name for delete in again.deletes] == ["digits-2-1"]


def test_a_second_loss_is_another_restart():
    gang = pod(0), pod(1, phase="Failed"), pod(2, attempt=2)
    plan = decide(grown_to(3, attempt=2), *gang, reports=trains(0, 1, attempt=2, restarts=[SILENT]))
    assert names(plan.creates) == ["digits-1-3"]
    assert plan.status["restartCount"] == 2


def test_it_has_succeeded_when_rank_zero_says_so_whoever_was_still_to_come():
    words = {"attempt": 1, "phase": "Succeeded", "members": []}
    done = pod(0, phase="Succeeded", last_words=words), pod(1, phase="Succeeded"), pod(2, attempt=2, phase="Pending")
    assert decide(grown_to(3, attempt=2), *done).status["phase"] == "Succeeded"


def test_workers_without_a_place_are_waited_for_while_enough_have_one():
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node",
            "lastTransitionTime": "2027-01-15T07:00:00Z"}  # fmt: skip
    unplaced = pod(2, attempt=2, phase="Pending", node=None) | {"status": {"phase": "Pending", "conditions": [said]}}
    assert decide(grown_to(3, attempt=2), pod(0), pod(1), unplaced, reports=trains(0, 1)).deletes == ()
    assert decide(grown_to(3, attempt=2), pod(0), unplaced).deletes != ()


@pytest.mark.parametrize(("gpus", "phase"), [(2, "Starting"), (1, "Queued")])
def test_it_starts_where_there_is_room_for_the_least(gpus, phase):
    spec = {"resources": {"limits": {"nvidia.com/gpu": 1}}, "backend": "gloo"}
    plan = decide(job(**ELASTIC, **spec), capacity=room(of=(node(gpus=gpus),)))
    assert plan.status["phase"] == phase
    assert len(plan.creates) == (3 if phase == "Starting" else 0)


def test_the_pods_know_the_bounds():
    made = decide(job(**ELASTIC), capacity=room()).creates[0]
    environment = {e["name"]: e["value"] for e in made["spec"]["containers"][0]["env"]}
    assert (environment["MUSTER_MIN_REPLICAS"], environment["MUSTER_MAX_REPLICAS"]) == ("2", "8")
