"""Devices that pods claim: nobody counts them, so gangs that claim some have their turns one after the other."""

from __future__ import annotations

import pytest

from muster.plan import claims, queue
from muster.plan.conditions import find
from muster.plan.model import Demand, Reference
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW, decide, job, names, node, pod, room, started
from tests.unit.plan.serving import fixtures as serving
from tests.unit.plan.test_placement import unplaced

CLAIMED = {
    "limits": {"cpu": "1"},
    "claims": [
        {"name": "gpus", "resourceClaimTemplateName": "two-gpus"},
        {"name": "network", "resourceClaimName": "fabric", "request": "channel"},
    ],
}
OF_POD = [
    {"name": "gpus", "resourceClaimTemplateName": "two-gpus"},
    {"name": "network", "resourceClaimName": "fabric"},
]
OF_CONTAINER = {"limits": {"cpu": "1"}, "claims": [{"name": "gpus"}, {"name": "network", "request": "channel"}]}


def started_pod(**spec):
    return decide(job(resources=CLAIMED, **spec), capacity=room()).creates[-1]["spec"]


def variables(spec):
    return {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}


def test_the_pod_says_which_claims_those_are_that_its_container_uses():
    spec = started_pod()
    assert spec["resourceClaims"] == OF_POD
    assert spec["containers"][0]["resources"] == OF_CONTAINER


def test_of_a_template_that_claims_for_another_container_both_are_kept():
    other = {"name": "proxy", "resourceClaimTemplateName": "of-the-proxy"}
    assert started_pod(template={"spec": {"resourceClaims": [other]}})["resourceClaims"] == [*OF_POD, other]


@pytest.mark.parametrize(("backend", "told"), [("auto", None), ("nccl", "nccl"), ("gloo", "gloo")])
def test_the_workers_see_what_they_have_claimed(backend, told):
    assert variables(started_pod(backend=backend)).get("MUSTER_BACKEND") == told


def test_a_parameter_server_claims_nothing():
    strategy = {"type": "parameterServer"}
    server, worker = decide(job(replicas=1, resources=CLAIMED, strategy=strategy), capacity=room()).creates
    assert "resourceClaims" not in server["spec"]
    assert server["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "1"}}
    assert worker["spec"]["resourceClaims"] == OF_POD


def test_what_is_claimed_has_to_be_there():
    assert decide(job(resources=CLAIMED)).demand.references == (
        Reference("ResourceClaimTemplate", "two-gpus", "spec.resources.claims[0].resourceClaimTemplateName"),
        Reference("ResourceClaim", "fabric", "spec.resources.claims[1].resourceClaimName"),
    )


def demand(name, *, claimed=True, age=10.0):
    spec = {"containers": [{"name": "worker", "resources": {"limits": {"cpu": "1"}}}]}
    spec |= {"resourceClaims": OF_POD} if claimed else {}
    return Demand(name=name, pods=(spec,) * 2, least=2, since=NOW - age)


def admit(capacity, *demands):
    answers, left = queue.admit({one.name: one for one in demands}, {}, capacity, queue.Priorities({}), NOW)
    return {name: answer.reason for name, answer in answers.items()}, left


def claiming(seconds, **spec):
    meta = {"name": "other", "creationTimestamp": to_timestamp(NOW - seconds)}
    return {"metadata": meta, "spec": demand("other").pods[0] | spec, "status": {"phase": "Pending"}}


def test_one_gang_at_a_time_is_admitted_that_claims_devices():
    reasons, left = admit(room(), demand("second"), demand("first", age=20), demand("other", claimed=False))
    assert reasons == {"first": "Admitted", "second": "Queued", "other": "Admitted"}
    assert admit(left, demand("second"))[0] == {"second": "Queued"}


def test_what_was_granted_and_is_not_made_yet_counts_too():
    assert admit(queue.taken(demand("first"), room(), None), demand("second"))[0] == {"second": "Queued"}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (claiming(5), "Queued"),
        (claiming(5, nodeName="node-1"), "Admitted"),
        (claiming(5, resourceClaims=[]), "Admitted"),
        (claiming(5, schedulingGates=[{"name": "its-queue"}]), "Admitted"),
        (claiming(claims.SETTLES), "Admitted"),
    ],
    ids=["looked for", "found", "of a pod that claims none", "not looked for yet", "not found"],
)
def test_until_the_scheduler_has_found_the_devices_of_the_one_before(other, reason):
    assert admit(room(other), demand("next"))[0] == {"next": reason}


TPUS = {"metadata": {"name": "tpus"}, "spec": {"extendedResourceName": "google.com/tpu"}}
OTHERS = {"metadata": {"name": "others"}, "spec": {}}


def asking(name, resource, age=10.0):
    spec = {"containers": [{"name": "worker", "resources": {"limits": {resource: "4"}}}]}
    return Demand(name=name, pods=(spec,) * 2, least=2, since=NOW - age)


@pytest.mark.parametrize("resource", ["google.com/tpu", "deviceclass.resource.kubernetes.io/others"])
def test_a_resource_that_a_class_stands_for_is_claimed_where_no_node_offers_it(resource):
    two = asking("first", resource, age=20), asking("second", resource)
    assert admit(room(), *two)[0] == {"first": "NeverFits", "second": "NeverFits"}
    assert admit(room(classes=[TPUS, OTHERS]), *two)[0] == {"first": "Admitted", "second": "Queued"}
    pending = claiming(5) | {"spec": two[0].pods[0]}
    assert admit(room(pending, classes=[TPUS, OTHERS]), two[1])[0] == {"second": "Queued"}


def test_what_a_node_offers_is_counted_whatever_a_class_stands_for():
    gpus = {"metadata": {"name": "gpus"}, "spec": {"extendedResourceName": "nvidia.com/gpu"}}
    lost = node() | {"status": node()["status"] | {"allocatable": {"pods": "9", "nvidia.com/gpu": "0"}}}
    assert admit(room(of=(node(),), classes=[gpus]), asking("two", "nvidia.com/gpu"))[0] == {"two": "NeverFits"}
    assert admit(room(of=(lost,), classes=[gpus]), asking("two", "nvidia.com/gpu"))[0] == {"two": "Admitted"}


def test_they_have_their_places_before_who_comes_next():
    assert claims.SETTLES > 60, "or a gang without devices would have some while the next one looks for its own"


def back():
    return decide(started(job(resources=CLAIMED), phase="Starting"), pod(0), pod(1), unplaced(2, 60)).status


def test_a_gang_that_was_taken_back_gives_the_next_one_a_turn():
    admitted = find(back()["conditions"], "Admitted")
    assert admitted["reason"] == "TakenBack"
    assert admitted["message"].endswith("; the next try is after 60 s")
    waits = decide(job(resources=CLAIMED) | {"status": back()}, pod(0), capacity=room(), now=NOW + 59)
    assert (waits.creates, waits.demand, waits.status["conditions"]) == ((), None, back()["conditions"])
    assert [one.name for one in waits.deletes] == ["digits-0-1"]
    assert waits.look_again == pytest.approx(1)
    again = decide(job(resources=CLAIMED) | {"status": back()}, capacity=room(), now=NOW + 60)
    assert names(again.creates) == ["digits-0-2", "digits-1-2", "digits-2-2"]


def test_each_time_the_next_try_comes_later_and_takes_no_longer():
    again = decide(job(resources=CLAIMED) | {"status": back()}, capacity=room(), now=NOW + 60).status
    gang = pod(0, 2), pod(1, 2), unplaced(2, 60, attempt=2)
    second = decide(job(resources=CLAIMED) | {"status": again}, *gang).status
    assert find(second["conditions"], "Admitted")["message"].endswith("; the next try is after 120 s")


def test_a_deployments_pods_claim_likewise():
    made = serving.decide(serving.deployment(resources=CLAIMED)).creates[0]["spec"]
    assert made["resourceClaims"] == OF_POD
    assert made["containers"][0]["resources"] == OF_CONTAINER
