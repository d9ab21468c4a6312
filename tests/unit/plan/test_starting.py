"""A job gets all of its first pods, or none."""

import pytest

from muster.plan.conditions import find
from tests.unit.plan.fixtures import decide, job, names, node, pod, report, room, started

GPU = {"resources": {"limits": {"nvidia.com/gpu": 1}}, "backend": "gloo"}


def test_what_is_free_is_asked_for_first():
    plan = decide(job(**GPU))
    assert plan.demand is not None
    assert plan.creates == ()
    assert plan.status is None


def test_given_room_then_the_service_and_all_pods_are_made():
    plan = decide(job(**GPU), capacity=room())
    assert names(plan.applies) == ["digits-workers"]
    assert names(plan.creates) == ["digits-0-1", "digits-1-1", "digits-2-1"]
    assert (plan.status["phase"], plan.status["attempt"], plan.status["workers"]) == ("Starting", 1, "0/3")
    assert find(plan.status["conditions"], "Admitted")["status"] == "True"
    assert plan.events == (), "the pods' own events say that they start"


def test_given_room_for_some_then_none_is_made_and_the_status_says_what_is_missing():
    plan = decide(job(**GPU), capacity=room(of=(node(gpus=2),)))
    assert plan.creates == plan.applies == ()
    assert plan.status["phase"] == "Queued"
    admitted = find(plan.status["conditions"], "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("False", "NeverFits")
    assert "3 workers (1 nvidia.com/gpu each)" in admitted["message"]
    assert plan.demand is not None, "it goes on standing in line"


def test_a_waiting_job_writes_nothing_more_while_nothing_changes():
    waiting = decide(job(**GPU), capacity=room(of=(node(gpus=2),))).status
    again = decide(job(**GPU) | {"status": waiting}, capacity=room(of=(node(gpus=2),)))
    assert again.status is None
    assert again.events == ()
    assert again.demand is not None


def test_a_waiting_job_starts_once_there_is_room():
    waiting = decide(job(**GPU), capacity=room(of=(node(gpus=2),))).status
    assert len(decide(job(**GPU) | {"status": waiting}, capacity=room()).creates) == 3


def test_given_a_crash_in_the_middle_of_the_gang_then_only_the_missing_pods_are_made():
    plan = decide(job(**GPU), pod(0), pod(2, phase="Pending"))
    assert names(plan.creates) == ["digits-1-1"]
    assert plan.status["attempt"] == 1
    assert plan.status["restartCount"] == 0
    admitted = find(plan.status["conditions"], "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("True", "Admitted")


def test_without_a_gang_the_scheduler_decides():
    plan = decide(job(scheduling={"gang": "none"}), capacity=room(of=()))
    assert len(plan.creates) == 3
    assert find(plan.status["conditions"], "Admitted")["reason"] == "NotGanged"


def test_a_started_job_is_not_admitted_twice():
    plan = decide(started(job(**GPU)), pod(0), pod(1), pod(2))
    assert plan.demand is None
    assert plan.creates == ()


def test_a_job_of_another_controller_is_left_alone():
    plan = decide(job(managedBy="kueue.x-k8s.io/multikueue"))
    assert plan.creates == ()
    assert plan.status is None


@pytest.mark.parametrize("unknown", [{"spec": {"backend": "ucc"}}, {"status": {"phase": "Draining"}}], ids=str)
def test_what_another_version_wrote_ends_no_pod(unknown):
    """An older operator looks at the job for a moment: a release that is taken back, or comes in while another goes."""
    pods, reports = [pod(0), pod(1), pod(2)], {"uid-digits-0-1": report()}
    ours = started(job(), wantedReplicas=3)
    theirs = {part: ours[part] | unknown.get(part, {}) for part in ("spec", "status")}
    looked = decide(ours | theirs, *pods, reports=reports)
    assert (looked.creates, looked.deletes) == ((), ())
    assert looked.status is None or find(looked.status["conditions"], "Admitted")["status"] == "True"
    back = ours | {"status": {**(looked.status or ours["status"]), "phase": "Running"}}
    assert decide(back, *pods, reports=reports, capacity=room(*pods)).deletes == ()


def test_a_spec_that_slipped_past_the_schema_is_explained_in_the_status():
    plan = decide(job(replicas=0))
    assert plan.creates == ()
    refusal = find(plan.status["conditions"], "Admitted")
    assert refusal["reason"] == "InvalidSpec"
    assert "spec.replicas" in refusal["message"]
    assert decide(job(replicas=0) | {"status": plan.status}).status is None
