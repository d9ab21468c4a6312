"""Gangs that another scheduler places: what it is told, and what the status says meanwhile."""

import pytest

from muster.plan.conditions import find
from muster.plan.model import Reference
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW, UID, decide, job, names, pod, room, started

FULL = room(of=())
MEMBERSHIP = {
    "coscheduling": ("labels", "scheduling.x-k8s.io/pod-group", "scheduler-plugins-scheduler"),
    "volcano": ("annotations", "scheduling.k8s.io/group-name", "volcano"),
}


def gang_of(which, **spec):
    return job(scheduling={"gang": which}, **spec)


def starting(which, **spec):
    return decide(gang_of(which, **spec), capacity=FULL)


def unplaced(rank, message=""):
    without = pod(rank, phase="Pending", node=None)
    said = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": to_timestamp(NOW - 3600),
    }
    return without | {"status": {"phase": "Pending", "conditions": [said] if message else []}}


@pytest.mark.parametrize(
    ("which", "version"),
    [("coscheduling", "scheduling.x-k8s.io/v1alpha1"), ("volcano", "scheduling.volcano.sh/v1beta1")],
)
def test_the_group_is_there_before_the_pods_and_asks_for_all_of_them(which, version):
    plan = starting(which)
    _, group = plan.applies
    assert (group["apiVersion"], group["kind"], group["metadata"]["name"]) == (version, "PodGroup", "digits-workers")
    assert group["metadata"]["ownerReferences"][0]["uid"] == UID
    assert group["spec"] == {"minMember": 3}
    assert names(plan.creates) == ["digits-0-1", "digits-1-1", "digits-2-1"]


@pytest.mark.parametrize("which", MEMBERSHIP)
def test_every_pod_belongs_to_the_group_and_to_its_scheduler(which):
    bearing, key, scheduler = MEMBERSHIP[which]
    for made in starting(which).creates:
        assert made["metadata"][bearing][key] == "digits-workers"
        assert made["spec"]["schedulerName"] == scheduler


def test_what_the_template_writes_goes_before_but_for_the_membership():
    labels = {"scheduling.x-k8s.io/pod-group": "another", "team": "vision"}
    template = {"metadata": {"labels": labels}, "spec": {"schedulerName": "mine"}}
    plan = starting("coscheduling", template=template)
    assert plan.creates[0]["spec"]["schedulerName"] == "mine"
    assert (
        plan.creates[0]["metadata"]["labels"].items()
        >= {
            "scheduling.x-k8s.io/pod-group": "digits-workers",
            "team": "vision",
        }.items()
    )
    assert "waiting for mine to place" in plan.status["message"]


def test_an_elastic_gang_is_as_many_as_it_cannot_do_without():
    group = starting("volcano", elastic={"minReplicas": 2, "maxReplicas": 5}).applies[1]
    assert group["spec"]["minMember"] == 2


def test_volcano_is_told_the_priority_and_coscheduling_reads_it_from_the_pods():
    groups = {
        which: decide(job(scheduling={"gang": which, "priorityClassName": "high"}), capacity=FULL)
        for which in MEMBERSHIP
    }
    assert groups["volcano"].applies[1]["spec"] == {"minMember": 3, "priorityClassName": "high"}
    assert groups["coscheduling"].applies[1]["spec"] == {"minMember": 3}
    assert groups["coscheduling"].creates[0]["spec"]["priorityClassName"] == "high"


def test_without_another_scheduler_there_is_no_group():
    plan = starting("none")
    assert names(plan.applies) == ["digits-workers"]
    assert "schedulerName" not in plan.creates[0]["spec"]


@pytest.mark.parametrize(
    ("which", "remedy"), [("coscheduling", "install the scheduler plugin Coscheduling"), ("volcano", "install Volcano")]
)
def test_what_the_cluster_must_know_is_looked_for_first(which, remedy):
    plan = decide(gang_of(which))
    assert plan.creates == plan.applies == ()
    (definition,) = plan.demand.references
    assert definition == Reference("CustomResourceDefinition", definition.name, "spec.scheduling.gang", remedy)
    assert (
        definition.name
        == {"coscheduling": "podgroups.scheduling.x-k8s.io", "volcano": "podgroups.scheduling.volcano.sh"}[which]
    )


@pytest.mark.parametrize("which", MEMBERSHIP)
def test_the_status_says_whom_it_waits_for_from_the_first_moment(which):
    status = starting(which).status
    scheduler = MEMBERSHIP[which][2]
    assert (status["phase"], status["reason"]) == ("Starting", "WaitingForScheduler")
    assert status["message"] == f"waiting for {scheduler} to place 3 of 3 workers"
    admitted = find(status["conditions"], "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("True", "LeftToScheduler")
    pods = tuple(unplaced(rank) for rank in range(3))
    assert decide(gang_of(which) | {"status": status}, *pods).status is None


def test_what_the_scheduler_says_is_passed_on():
    waiting = started(gang_of("volcano"), phase="Starting")
    status = decide(waiting, *(unplaced(rank, "pod group is not ready") for rank in range(3))).status
    assert status["message"] == "waiting for volcano to place 3 of 3 workers: pod group is not ready"


def test_workers_without_a_place_are_not_taken_back():
    waiting = started(gang_of("coscheduling"), phase="Starting")
    plan = decide(waiting, *(unplaced(rank, "no room") for rank in range(3)))
    assert plan.deletes == ()
    assert plan.look_again is None
