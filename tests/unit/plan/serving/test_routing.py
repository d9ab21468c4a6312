"""Whom requests are sent to, and who waits for it."""

from __future__ import annotations

from typing import Any

from muster.client import SLICES
from muster.control.controlled import CONTROLLED
from muster.control.kinds import MODEL_DEPLOYMENTS, Key
from muster.control.store import Store
from muster.plan.serving import routing
from tests.unit.plan.serving.fixtures import decide, deployment, known, leaving, made, pod, revision, said

ONE = revision()
NEXT = revision(2, rollout={"restart": "now"})
SLICE: dict[str, Any] = {
    "metadata": {
        "name": "digits-x7k2p",
        "namespace": "research",
        "uid": "uid-slice",
        "resourceVersion": "12",
        "labels": {"kubernetes.io/service-name": "digits", "muster.dev/deployment-uid": "uid-digits"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "digits", "uid": "uid-service"}],
    },
    "endpoints": [
        {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
        {"addresses": ["10.0.0.2"], "conditions": {"ready": False, "serving": True, "terminating": True}},
        {"addresses": ["10.0.0.3"]},
    ],
}


def test_a_slice_is_the_deployments_whose_service_it_is_of():
    (owner,) = routing.kept(SLICE)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("ModelDeployment", "digits", "uid-digits")


def test_what_was_kept_of_a_slice_is_kept_when_a_list_brings_it():
    store = Store(CONTROLLED)
    store.put(MODEL_DEPLOYMENTS, deployment() | {"metadata": deployment()["metadata"] | {"uid": "uid-digits"}})
    store.correct(SLICES, [store.known(SLICES, SLICE)], "12")
    observed = store.observe(Key("ModelDeployment", "research", "digits"))
    assert observed is not None
    assert observed.routed == {"10.0.0.1", "10.0.0.3"}


def test_requests_are_sent_to_what_is_ready_or_does_not_say():
    empty = {**SLICE, "endpoints": None}
    assert routing.addresses(map(routing.kept, (SLICE, empty))) == {"10.0.0.1", "10.0.0.3"}


def test_the_old_pod_stays_until_requests_are_sent_to_the_new_one():
    resource = deployment(known(ONE, NEXT, madeReplicas=1), replicas=1, rollout={"restart": "now"})
    old, new = pod(0, 1, ONE), pod(0, 2, NEXT)
    addresses = [one["status"]["podIP"] for one in (old, new)]
    early = decide(resource, old, new, revisions=(ONE, NEXT), routed=frozenset(addresses[:1]))
    assert (made(early), leaving(early), early.status["updatedReplicas"]) == ([], [], 0)
    late = decide(resource, old, new, revisions=(ONE, NEXT), routed=frozenset(addresses))
    assert (leaving(late), late.status["updatedReplicas"]) == (["digits-serve-0-1"], 1)


def test_a_pod_that_is_ready_and_not_sent_any_requests_serves_nobody():
    answer = decide(deployment(replicas=1), pod(0, 1, ONE), revisions=(ONE,), routed=frozenset())
    assert (answer.status["ready"], said(answer)["Servable"]) == ("0/1", "False")
