"""A suspended job has no pods; what it has learnt stays, and it goes on as if nothing had been."""

from muster.plan.conditions import find, is_true
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW, decide, job, names, node, nodes, pod, report, room, started

SUSPENDED = {"suspend": True}


def stopping(*pods):
    return decide(started(job(**SUSPENDED), phase="Running"), *pods)


def suspended(attempt=1, **status):
    """The status of a job whose workers have left."""
    resource = started(job(**SUSPENDED), attempt=attempt, **status)
    return decide(resource).status


def test_a_job_that_is_born_suspended_gets_no_pod():
    plan = decide(job(**SUSPENDED))
    assert plan.creates == plan.applies == ()
    assert plan.demand is None
    assert plan.status["phase"] == "Suspended"
    assert is_true(plan.status["conditions"], "Suspended")


def test_workers_are_asked_to_leave_and_until_they_have_the_condition_is_false():
    plan = stopping(pod(0), pod(1), pod(2, deleting=True))
    assert [(delete.name, delete.grace_seconds) for delete in plan.deletes] == [
        ("digits-0-1", None), ("digits-1-1", None),
    ]  # fmt: skip
    condition = find(plan.status["conditions"], "Suspended")
    assert (plan.status["phase"], condition["status"], condition["reason"]) == ("Suspended", "False", "Stopping")
    assert "digits-2-1" in condition["message"]
    assert not is_true(plan.status["conditions"], "Admitted")
    assert not is_true(plan.status["conditions"], "Running")


def test_what_an_unreachable_node_cannot_end_is_removed_by_force():
    cut_off = nodes(node("node-1"), node("node-2", ready="Unknown"))
    resource = started(job(**SUSPENDED))
    plan = decide(resource, pod(0), pod(1, node="node-2", deleting=True), nodes=cut_off)
    assert [(delete.name, delete.grace_seconds) for delete in plan.deletes] == [("digits-0-1", None), ("digits-1-1", 0)]


def test_once_they_have_left_it_is_suspended_and_keeps_what_was_measured():
    status = suspended(progress={"step": 40, "reportedAt": to_timestamp(NOW)}, metrics={"loss": "0.1"})
    assert is_true(status["conditions"], "Suspended")
    assert (status["replicas"], status["workers"], status["attempt"]) == (0, "0/3", 1)
    assert status["progress"]["step"] == 40
    assert status["metrics"] == {"loss": "0.1"}


def test_a_suspended_job_writes_nothing_more():
    status = suspended()
    again = decide(job(**SUSPENDED) | {"status": status})
    assert again.status is None
    assert again.deletes == again.events == ()


def test_resumed_it_waits_for_room_like_a_new_job():
    assert decide(job() | {"status": suspended()}).demand is not None
    plan = decide(job() | {"status": suspended()}, capacity=room(of=(node(gpus=2),)))
    assert len(plan.creates) == 3
    assert names(plan.creates) == ["digits-0-2", "digits-1-2", "digits-2-2"]
    assert (plan.status["phase"], plan.status["attempt"]) == ("Starting", 2)
    assert plan.status["startTime"] == to_timestamp(NOW)
    assert find(plan.status["conditions"], "Suspended")["reason"] == "Resumed"


def test_a_readmission_is_no_restart():
    resumed = decide(job() | {"status": suspended(attempt=3)}, capacity=room()).status
    assert (resumed["attempt"], resumed["plannedAttempts"], resumed["restartCount"]) == (4, 1, 2)
    tight = job(failurePolicy={"maxRestarts": 2}) | {"status": resumed}
    gang = tuple(pod(rank, attempt=4) for rank in range(3))
    assert decide(tight, *gang, reports={"uid-digits-0-4": report(attempt=4)}).status["phase"] == "Running"
    assert decide(tight, *gang[:2]).status["reason"] == "RestartBudgetExhausted"


def test_given_a_crash_in_the_middle_of_resuming_then_only_the_missing_pods_are_made():
    plan = decide(job() | {"status": suspended()}, pod(0, attempt=2), pod(1, phase="Failed"))
    assert names(plan.creates) == ["digits-1-2", "digits-2-2"]
    assert (plan.status["attempt"], plan.status["restartCount"]) == (2, 0)


def test_resumed_at_once_it_waits_until_the_old_workers_have_left():
    status = stopping(pod(0), pod(1), pod(2)).status
    plan = decide(job() | {"status": status}, pod(0), pod(1, deleting=True), pod(2, phase="Failed"))
    assert plan.creates == ()
    assert [delete.name for delete in plan.deletes] == ["digits-0-1"]
    assert (plan.status["phase"], plan.status["reason"]) == ("Queued", "WorkersLeaving")


def test_a_job_that_has_succeeded_meanwhile_is_not_suspended():
    done = tuple(pod(rank, phase="Succeeded") for rank in range(3))
    assert decide(started(job(**SUSPENDED)), *done).status["phase"] == "Succeeded"
