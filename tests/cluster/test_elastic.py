"""An elastic job trains on while workers come, go and are lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import audit, jobs
from tests.cluster.kube import Kube, kubectl, local_cluster, wait_for
from tests.cluster.nodes import keep_workers_off_the_leader, node_of_the_leader, ready
from tests.cluster.training import running

SIZES = {"minReplicas": 2, "maxReplicas": 4}


@pytest.fixture
def elastic(kube: Kube, request: pytest.FixtureRequest) -> Kube:
    """A job of two workers, of up to four, that trains by the strategy that is its parameter."""
    audit.provide(kube)
    strategy = {"strategy": {"type": getattr(request, "param", "ddp")}}
    kube.apply(jobs.endless(replicas=2, elastic=SIZES, recipe=audit.RECIPE, source=audit.SOURCE, **strategy))
    of_size(kube, 2)
    return kube


def of_size(kube: Kube, size: int, leader: str = "digits-0-1", after: float = 0.0) -> dict[str, Any]:
    """Return the group's state once it has made steps with so many ranks that were started after that time."""

    def found() -> dict[str, Any] | None:
        state = kube.state(leader)
        first = (state.get("progress") or {}).get("firstStepAt")
        trains = state.get("phase") == "Running" and state["worldSize"] == size and state.get("checkpoint")
        return state if trains and first and first > after else None

    return wait_for(f"{leader} trains with {size} ranks", found, 120)


def scale(kube: Kube, replicas: int) -> float:
    now = time.time()
    kubectl("scale", "trainingjob", "digits", "-n", kube.namespace, f"--replicas={replicas}")
    return now


@pytest.mark.long
@pytest.mark.parametrize("elastic", ["ddp", "fsdp"], indirect=True)
def test_workers_are_added_and_taken_away_in_the_middle_of_an_epoch(elastic, measure):
    asked = scale(elastic, 4)
    grown = of_size(elastic, 4)
    measure("scaled from 2 to 4: next step with 4 after, seconds", grown["progress"]["firstStepAt"] - asked, "")
    status = wait_for("the status says so", lambda: whole(elastic, 4), 60)
    assert (status["phase"], status["restartCount"]) == ("Running", 0)
    asked = scale(elastic, 2)
    shrunk = of_size(elastic, 2)
    measure("scaled from 4 to 2: next step with 2 after, seconds", shrunk["progress"]["firstStepAt"] - asked, "")
    assert shrunk["progress"]["resumedFromStep"] >= grown["progress"]["step"]
    assert shrunk["restarts"] == []
    wait_for("two workers are left", lambda: running(elastic) == ["digits-0-1", "digits-1-1"], 60)
    status = wait_for("the status says so", lambda: whole(elastic, 2), 60)
    assert status["restartCount"] == 0
    measure("epochs with every sample once, through both changes", audit.complete_epochs(elastic, "digits-0-1"), "")


def whole(kube: Kube, replicas: int) -> dict[str, Any] | None:
    status = kube.status("digits")
    return status if status["workers"] == f"{replicas}/{replicas}" and status["phase"] == "Running" else None


def test_a_size_out_of_bounds_is_refused_by_kubectl(kube):
    kube.apply(jobs.endless(replicas=2, elastic=SIZES, suspend=True))
    answer = kubectl("scale", "trainingjob", "digits", "-n", kube.namespace, "--replicas=9", check=False)
    assert answer.returncode != 0
    assert "must not be below spec.elastic.minReplicas nor above spec.elastic.maxReplicas" in answer.stderr


@pytest.fixture
def leader_aside() -> Iterator[None]:
    with keep_workers_off_the_leader():
        yield


@pytest.mark.long
@pytest.mark.parametrize("of_rank_0", [False, True], ids=["another node", "the node of rank 0"])
def test_the_others_go_on_without_the_workers_of_a_lost_node(leader_aside, kube, measure, of_rank_0):
    audit.provide(kube)
    recipe, source = audit.RECIPE, audit.SOURCE
    kube.apply(jobs.endless(replicas=4, elastic=SIZES, recipe=recipe, source=source, template=spread()))
    of_size(kube, 4)
    pods = kube.pods("digits")
    home = pods["digits-0-1"]["spec"]["nodeName"]
    lost = next(p["spec"]["nodeName"] for p in pods.values() if (p["spec"]["nodeName"] == home) is of_rank_0)
    gone = [name for name, p in pods.items() if p["spec"]["nodeName"] == lost]
    survivor = min(pods.keys() - gone)
    assert len(gone) == 2, "the scheduler has spread the workers as it was told"
    kubectl("uncordon", node_of_the_leader())
    cut = time.time()
    local_cluster("node", "fail", lost)
    try:
        alone = of_size(kube, 2, survivor, after=cut)
        which = "rank 0's node lost" if of_rank_0 else "node lost"
        took = alone["progress"]["firstStepAt"] - cut
        measure(f"elastic, {which}: next step after the link was cut, seconds", took, "at most 10")
        status = wait_for("the status tells of the two that train", lambda: trains_with_two(kube), 10)
        steps = status["restarts"][0]["stepsLost"]
        measure(f"elastic, {which}: steps lost", steps, f"at most {jobs.CHECKPOINT_STEPS}")
        wait_for("Kubernetes calls the node unreachable", lambda: ready(lost) == "Unknown", 60)
        leader = "digits-0-2" if of_rank_0 else "digits-0-1"
        again = of_size(kube, 4, leader, after=alone["progress"]["firstStepAt"])
        record = wait_for("the record names the node", lambda: recorded(kube, lost), 60)
    finally:
        local_cluster("node", "heal", lost)
    wait_for("the node is back", lambda: ready(lost) == "True", 120)
    assert again["worldSize"] == 4
    assert record["cause"] == "NodeLost"
    assert record["pod"] in gone
    assert kube.status("digits")["restartCount"] == 1
    measure("epochs with every sample once, through the loss", audit.complete_epochs(kube, survivor), "")


def trains_with_two(kube: Kube) -> dict[str, Any] | None:
    status = kube.status("digits")
    there = (status["attempt"], status["phase"]) == (2, "Running") and "stepsLost" in status["restarts"][0]
    return status if there and status["message"].startswith("2 of 4 workers train") else None


def recorded(kube: Kube, node: str) -> dict[str, Any] | None:
    return next((r for r in kube.status("digits").get("restarts", []) if r.get("node") == node), None)


def spread() -> dict[str, Any]:
    """As many workers on the one node that takes any as on the other."""
    constraint = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"muster.dev/training-job": "digits"}},
    }
    return {"spec": {"topologySpreadConstraints": [constraint]}}
