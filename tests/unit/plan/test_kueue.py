"""Jobs that Kueue admits: no pod without quota, no quota given back while there are pods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from muster.plan.conditions import find, is_true
from muster.plan.model import Reference
from muster.plan.timestamps import to_timestamp
from muster.plan.training.planner import plan
from tests.unit.plan.fixtures import NOW, SETTINGS, UID, decide, job, names, observed, pod, room, started

NAME = "trainingjob-digits-0c749"
SCHEDULING = {"queueName": "research"}
FLAVORS = {
    "spot": {
        "metadata": {"name": "spot"},
        "spec": {"nodeLabels": {"pool": "spot"}, "tolerations": [{"key": "spot", "operator": "Exists"}]},
    }
}


def said(kind: str, status: str = "True", reason: str = "", message: str = "") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason or kind,
        "message": message,
        "lastTransitionTime": to_timestamp(NOW - 30),
    }


def workload(*conditions: dict[str, Any], admission: bool = False, **more: Any) -> dict[str, Any]:
    status = {"conditions": list(conditions)} | more.pop("status", {})
    if admission:
        assignment = {"name": "worker", "flavors": {"cpu": "spot", "nvidia.com/gpu": "spot"}}
        status["admission"] = {"clusterQueue": "all", "podSetAssignments": [assignment]}
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "Workload",
        "metadata": {"name": NAME, "namespace": "research", "uid": "w", "resourceVersion": "9", "generation": 2},
        "spec": {"queueName": "research", "active": True} | more,
        "status": status,
    }


RESERVED, ADMITTED = said("QuotaReserved"), said("Admitted")
PREEMPTED = said("Evicted", reason="Preempted", message="Preempted to accommodate a higher priority Workload")
RUNS = workload(RESERVED, ADMITTED, admission=True)
EVICTED = workload(RESERVED, ADMITTED, PREEMPTED, admission=True)


def queued(**spec: Any) -> dict[str, Any]:
    return job(scheduling=SCHEDULING, **spec)


def running(**status: Any) -> dict[str, Any]:
    return started(queued(), **status)


def look(resource, *pods, has=(), **more):
    """The plan with these Workloads on the cluster."""
    return decide(resource, *pods, workloads=tuple(has), flavors=FLAVORS, **more)


GANG = tuple(pod(rank) for rank in range(3))


def test_what_must_be_there_is_looked_for_first_and_kueues_kinds_are_needed():
    answer = decide(queued())
    assert answer.needs == ("Workload", "ResourceFlavor")
    assert answer.demand.references == (
        Reference("CustomResourceDefinition", "workloads.kueue.x-k8s.io", "spec.scheduling.queueName", "install Kueue"),
        Reference("LocalQueue", "research", "spec.scheduling.queueName"),
    )
    assert decide(job()).needs == ()


def test_a_workload_is_made_and_no_pod():
    answer = look(queued(), capacity=room(of=()))
    (made,) = answer.applies
    assert answer.creates == ()
    assert (made["apiVersion"], made["kind"], made["metadata"]["name"]) == ("kueue.x-k8s.io/v1beta1", "Workload", NAME)
    assert made["metadata"]["ownerReferences"][0]["uid"] == UID
    assert (
        made["metadata"]["labels"].items()
        >= {
            "kueue.x-k8s.io/queue-name": "research",
            "kueue.x-k8s.io/job-uid": UID,
            "muster.dev/training-job": "digits",
        }.items()
    )
    assert made["spec"]["queueName"] == "research"
    (pod_set,) = made["spec"]["podSets"]
    assert (pod_set["name"], pod_set["count"]) == ("worker", 3)
    assert pod_set["template"]["spec"]["containers"][0]["name"] == "worker"
    assert "priority" not in made["spec"]
    assert (answer.status["phase"], answer.status["reason"]) == ("Queued", "WaitingForKueue")


SERVED = {
    "strategy": {"type": "parameterServer", "parameterServers": 2},
    "storage": {"persistentVolumeClaim": {"claimName": "models"}},
    "resources": {"limits": {"nvidia.com/gpu": 1}},
}


def test_parameter_servers_and_workers_are_two_pod_sets():
    (made,) = look(queued(**SERVED), capacity=room(of=())).applies
    sets = {one["name"]: one for one in made["spec"]["podSets"]}
    assert {name: one["count"] for name, one in sets.items()} == {"parameter-server": 2, "worker": 3}
    limits = {name: one["template"]["spec"]["containers"][0]["resources"].get("limits") for name, one in sets.items()}
    assert limits == {"parameter-server": None, "worker": {"nvidia.com/gpu": "1"}}


def test_each_goes_where_its_pod_set_was_admitted():
    flavors = {name: {"metadata": {"name": name}, "spec": {"nodeLabels": {"pool": name}}} for name in ("cpus", "gpus")}
    there = workload(RESERVED, ADMITTED, admission=True)
    there["status"]["admission"]["podSetAssignments"] = [
        {"name": "parameter-server", "flavors": {"cpu": "cpus"}},
        {"name": "worker", "flavors": {"cpu": "gpus", "nvidia.com/gpu": "gpus"}},
    ]
    made = decide(queued(**SERVED), workloads=(there,), flavors=flavors).creates
    assert [one["spec"]["nodeSelector"]["pool"] for one in made] == ["cpus", "cpus", "gpus", "gpus", "gpus"]


def test_a_priority_class_is_told_with_its_value():
    resource = job(scheduling=SCHEDULING | {"priorityClassName": "high"})
    asked = look(resource)
    granted = replace(asked.demand.uncounted, priority=1000)
    (made,) = plan(replace(observed(resource, workloads=()), admission=granted), SETTINGS, NOW).applies
    assert (
        made["spec"].items()
        >= {
            "priorityClassSource": "scheduling.k8s.io/priorityclass",
            "priorityClassName": "high",
            "priority": 1000,
        }.items()
    )


def test_while_kueues_kinds_are_not_watched_it_goes_on_asking():
    answer = decide(queued(), capacity=room())
    assert answer.applies == answer.creates == ()
    assert answer.demand is not None


@pytest.mark.parametrize(
    ("conditions", "reason", "message"),
    [
        ((), "WaitingForKueue", "in LocalQueue research: Kueue has not looked at it yet"),
        (
            (
                said(
                    "QuotaReserved",
                    "False",
                    "Pending",
                    "insufficient unused quota for cpu in flavor spot, 2 more needed",
                ),
            ),
            "Pending",
            "in LocalQueue research: insufficient unused quota for cpu in flavor spot, 2 more needed",
        ),
        (
            (said("QuotaReserved", "False", "Inadmissible", "LocalQueue research doesn't exist"),),
            "Inadmissible",
            "in LocalQueue research: LocalQueue research doesn't exist",
        ),
        (
            (said("QuotaReserved", message="Quota reserved in ClusterQueue all"),),
            "QuotaReserved",
            "in LocalQueue research: Quota reserved in ClusterQueue all; admission checks: nodes is Pending: soon",
        ),
    ],
    ids=["not looked at", "no quota", "inadmissible", "checks"],
)
def test_why_it_waits_is_told_in_kueues_own_words(conditions, reason, message):
    checks = [{"name": "nodes", "state": "Pending", "message": "soon"}]
    answer = look(queued(), has=[workload(*conditions, status={"admissionChecks": checks})])
    condition = find(answer.status["conditions"], "Admitted")
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", reason, message)
    assert (answer.status["phase"], answer.creates, answer.demand) == ("Queued", (), None)


def test_admitted_all_pods_are_made_where_the_flavors_are():
    answer = look(queued(), has=[RUNS])
    assert names(answer.creates) == ["digits-0-1", "digits-1-1", "digits-2-1"]
    for made in answer.creates:
        assert made["spec"]["nodeSelector"] == {"pool": "spot"}
        assert made["spec"]["tolerations"] == [{"key": "spot", "operator": "Exists"}]
        assert not [label for label in made["metadata"]["labels"] if "kueue" in label], "pods are not Kueue's"
    admitted = find(answer.status["conditions"], "Admitted")
    assert (admitted["status"], admitted["message"]) == ("True", "Kueue admitted it by ClusterQueue all")


def test_what_admission_checks_ask_for_is_done():
    update = {"name": "worker", "annotations": {"reservation": "r1"}, "nodeSelector": {"rack": "3"}}
    checked = workload(RESERVED, ADMITTED, admission=True, status={"admissionChecks": [{"podSetUpdates": [update]}]})
    made = look(queued(), has=[checked]).creates[0]
    assert made["metadata"]["annotations"] == {"reservation": "r1"}
    assert made["spec"]["nodeSelector"] == {"pool": "spot", "rack": "3"}


def test_a_flavor_that_is_not_known_is_waited_for():
    answer = decide(queued(), workloads=(RUNS,), flavors={})
    assert (answer.status["reason"], answer.creates) == ("ResourceFlavorNotFound", ())
    assert answer.look_again == 1.0, "nobody says when it is there"


def test_a_lost_workers_successor_goes_where_the_flavors_are():
    answer = look(running(), pod(0), pod(1), pod(2, phase="Failed"), has=[RUNS])
    assert names(answer.creates) == ["digits-2-2"]
    assert answer.creates[0]["spec"]["nodeSelector"] == {"pool": "spot"}


def test_without_knowing_where_a_lost_worker_gets_no_successor_yet():
    answer = decide(running(), pod(0), pod(1), pod(2, phase="Failed"))
    assert answer.creates == answer.deletes == ()
    assert (answer.status["reason"], answer.look_again) == ("PlacementUnknown", 1.0)


def test_evicted_the_workers_are_asked_to_leave_and_the_quota_is_kept():
    answer = look(running(), pod(0), pod(1), pod(2, deleting=True), has=[EVICTED])
    assert [(delete.name, delete.grace_seconds) for delete in answer.deletes] == [
        ("digits-0-1", None), ("digits-1-1", None),
    ]  # fmt: skip
    assert answer.parts == ()
    condition = find(answer.status["conditions"], "Admitted")
    assert (answer.status["phase"], condition["status"], condition["reason"]) == ("Queued", "False", "Preempted")
    assert condition["message"] == (
        "in LocalQueue research: Preempted to accommodate a higher priority Workload;"
        " still on their way out: digits-0-1, digits-1-1, digits-2-1"
    )


def released(has) -> Any:
    gone = tuple(pod(rank, phase="Failed") for rank in range(3))
    first = look(running(), *gone, has=[has])
    assert first.parts == (), "it is told first"
    (part,) = look(queued() | {"status": first.status}, *gone, has=[has]).parts
    assert part.owner == "kueue-admission"
    return part.manifest


def test_once_they_have_left_the_quota_is_given_back_as_kueues_own_framework_does_it():
    manifest = released(EVICTED)
    assert manifest["metadata"] == {"name": NAME, "namespace": "research", "uid": "w", "resourceVersion": "9"}
    status = manifest["status"]
    assert "admission" not in status
    told = {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}
    assert told == {
        "QuotaReserved": ("False", "Pending"),
        "Admitted": ("False", "NoReservation"),
        "Evicted": ("True", "Preempted"),
        "Requeued": ("True", "Preempted"),
    }
    assert status["accumulatedPastExexcutionTimeSeconds"] == 30


def test_only_who_was_preempted_stands_in_line_again_at_once():
    deactivated = said("Evicted", reason="Deactivated", message="The workload is deactivated")
    status = released(workload(RESERVED, ADMITTED, deactivated, admission=True, active=False))["status"]
    assert find(status["conditions"], "Requeued")["status"] == "False"


def test_what_kueue_counts_of_evictions_is_kept():
    counted = {"requeueState": {"count": 2}, "schedulingStats": {"evictions": []}}
    assert (
        released(workload(RESERVED, ADMITTED, PREEMPTED, admission=True, status=counted))["status"].items()
        >= counted.items()
    )


def test_deactivated_it_says_what_would_bring_it_back():
    answer = look(queued(), has=[workload(said("QuotaReserved", "False", "Pending", "x"), active=False)])
    assert answer.status["reason"] == "Deactivated"
    assert f"set spec.active of Workload {NAME} to true" in answer.status["message"]


def test_admitted_again_it_goes_on_without_a_restart():
    back = look(running(), has=[EVICTED]).status
    assert not is_true(back["conditions"], "Admitted")
    again = look(queued() | {"status": back}, has=[RUNS])
    assert names(again.creates) == ["digits-0-2", "digits-1-2", "digits-2-2"]
    assert (again.status["attempt"], again.status["plannedAttempts"], again.status["restartCount"]) == (2, 1, 0)


def test_a_suspended_jobs_workload_goes_with_its_last_worker():
    resource = running() | {"spec": queued(suspend=True)["spec"]}
    leaving = look(resource, *GANG, has=[RUNS])
    assert [delete.kind for delete in leaving.deletes] == ["Pod"] * 3
    left = look(resource, *(pod(rank, phase="Failed") for rank in range(3)), has=[RUNS])
    assert [(delete.kind, delete.name, delete.uid) for delete in left.deletes] == [("Workload", NAME, "w")]


def test_when_the_workload_is_deleted_the_workers_leave_and_another_is_made():
    answer = look(running(), *GANG)
    assert len(answer.deletes) == 3
    assert (answer.status["phase"], answer.status["reason"]) == ("Queued", "WorkloadDeleted")
    again = look(
        queued() | {"status": answer.status}, *(pod(rank, phase="Failed") for rank in range(3)), capacity=room()
    )
    assert names(again.applies) == [NAME]


def test_what_runs_goes_on_where_kueues_kinds_are_not_known():
    answer = decide(running(), *GANG)
    assert answer.deletes == answer.parts == ()


def pods_ready(has, *pods, **status) -> tuple[str, str] | None:
    (*_, part) = look(running(**status), *pods, has=[has]).parts or (None,)
    if part is None:
        return None
    assert part.owner == "muster"
    (condition,) = part.manifest["status"]["conditions"]
    assert condition["type"] == "PodsReady"
    return condition["status"], condition["reason"]


def test_whether_the_pods_are_ready_is_told_when_it_changes():
    waiting = (pod(0), pod(1), pod(2, phase="Pending"))
    assert pods_ready(RUNS, *waiting) is None
    assert pods_ready(RUNS, *GANG) == ("True", "Started")
    ready = workload(RESERVED, ADMITTED, said("PodsReady", reason="Started"), admission=True)
    assert pods_ready(ready, *GANG) is None
    assert pods_ready(ready, *waiting) == ("False", "WaitForRecovery")
    lost = workload(RESERVED, ADMITTED, said("PodsReady", "False", reason="WaitForRecovery"), admission=True)
    assert pods_ready(lost, *waiting) is None
    assert pods_ready(lost, *GANG) == ("True", "Recovered")
    evicted = workload(RESERVED, ADMITTED, PREEMPTED, said("PodsReady", reason="Started"), admission=True)
    told = said("Admitted", "False", reason="Preempted")
    assert pods_ready(evicted, *GANG, conditions=[told]) == ("False", "WaitForStart")


def over(kind="Complete", **spec):
    ending = said(kind, message="all 3 workers ended with exit code 0")
    return started(queued(**spec), phase="Succeeded", conditions=[ending])


@pytest.mark.parametrize(("kind", "reason"), [("Complete", "Succeeded"), ("Failed", "Failed")])
def test_the_end_is_told_once_no_pod_takes_room(kind, reason):
    ready = workload(RESERVED, ADMITTED, said("PodsReady", reason="Started"), admission=True)
    assert look(over(kind), pod(0), has=[ready]).parts == ()
    (part,) = look(over(kind), pod(0, phase="Succeeded"), has=[ready]).parts
    told = {one["type"]: (one["status"], one["reason"]) for one in part.manifest["status"]["conditions"]}
    assert told == {"PodsReady": ("True", "Started"), "Finished": ("True", reason)}
    finished = workload(RESERVED, ADMITTED, said("Finished"), admission=True)
    assert look(over(kind), pod(0, phase="Succeeded"), has=[finished]).parts == ()


def test_pods_that_are_kept_do_not_hold_up_the_end():
    assert look(over(podCleanup="None"), pod(0), has=[RUNS]).parts != ()


def test_workers_without_a_place_are_kueues_matter():
    unplaced = pod(2, phase="Pending", node=None)
    since = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    unplaced["status"]["conditions"] = [since | {"message": "full", "lastTransitionTime": to_timestamp(NOW - 3600)}]
    assert look(running(phase="Starting"), pod(0), pod(1), unplaced, has=[RUNS]).deletes == ()
