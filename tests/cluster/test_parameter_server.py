"""Parameter servers: a worker's loss stops nobody, a server's only until it is back, and the model is as good."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster import audit, jobs
from tests.cluster.kube import Kube, kubectl, wait_for
from tests.cluster.nodes import slow_link
from tests.cluster.training import KILL_RANK, running, wait_for_restart, wait_until_it_trains

TWO_SERVERS = {"type": "parameterServer", "parameterServers": 2}


def served(**spec: Any) -> str:
    """Two servers, the pods 0 and 1, and two workers."""
    return jobs.endless(replicas=2, strategy=TWO_SERVERS, **spec)


def step(kube: Kube) -> int:
    return int(kube.state("digits-0-1").get("progress", {}).get("step", 0))


def wait_for_steps(kube: Kube, beyond: int, limit: float = 60) -> int:
    return int(wait_for(f"a step beyond {beyond}", lambda: (found := step(kube)) > beyond and found, limit))


@pytest.mark.long
def test_a_job_of_servers_and_workers_trains_to_the_end(kube, measure):
    begun = time.time()
    recipe = {"name": "muster_worker.recipes.digits:Digits", "config": {"epochs": 4, "batchSize": 64}}
    kube.apply(served(recipe=recipe))
    status = kube.wait_for_phase("digits", "Succeeded", limit=240)
    measure("parameter servers: apply to success, seconds", time.time() - begun, "")
    assert (status["workers"], status.get("restartCount", 0)) == ("2/2", 0)
    assert float(status["metrics"]["validationAccuracy"]) > 0.8
    assert float(status["metrics"]["pushedBytes"]) > 0
    assert status["model"]["bytes"] > 0


@pytest.mark.long
def test_a_lost_worker_stops_nobody_and_its_successor_joins(kube):
    kube.apply(served())
    state = wait_until_it_trains(kube, "digits-0-1")
    kubectl("delete", "pod", "digits-3-1", "-n", kube.namespace, "--grace-period=0", "--force")
    wait_for_steps(kube, step(kube))
    wait_for("the successor runs", lambda: "digits-3-2" in running(kube), 60)
    after = wait_until_it_trains(kube, "digits-0-1", attempt=2)
    assert after["progress"]["resumedFromStep"] == state["progress"]["resumedFromStep"] == 0, "nobody went back"
    status = kube.status("digits")
    assert status["restartCount"] == 1
    assert (status["restarts"][0]["rank"], status["restarts"][0]["cause"]) == (3, "PodDeleted")
    assert {"digits-0-1", "digits-1-1", "digits-2-1"} <= set(running(kube)), "the others stayed"


def test_a_killed_worker_process_is_restarted_by_itself(kube):
    kube.apply(served())
    wait_until_it_trains(kube, "digits-0-1")
    kube.run_in("digits-2-1", KILL_RANK)
    restart = wait_for_restart(kube, 2)
    assert (restart["pod"], restart["rank"], restart["stepsLost"]) == ("digits-2-1", 2, 0)
    wait_for_steps(kube, step(kube))
    assert kube.state("digits-0-1")["progress"]["resumedFromStep"] == 0


@pytest.mark.long
def test_workers_are_added_and_taken_away_and_nobody_waits(kube, measure):
    audit.provide(kube)
    bounds = {"minReplicas": 1, "maxReplicas": 4}
    kube.apply(served(elastic=bounds, recipe=audit.RECIPE, source=audit.SOURCE))
    wait_until_it_trains(kube, "digits-0-1")
    for size, pods in ((4, ["digits-4-2", "digits-5-2"]), (1, [])):
        begun = time.time()
        kubectl("scale", "trainingjob", "digits", "-n", kube.namespace, f"--replicas={size}")
        wanted = ["digits-0-1", "digits-1-1", "digits-2-1", *(["digits-3-1"] if pods else []), *pods]
        wait_for(f"{size} workers", lambda wanted=wanted: sorted(running(kube)) == wanted, 60)
        status = wait_for("the status says so", lambda size=size: told(kube, f"{size}/{size}"), 30)
        measure(f"servers: scaled to {size} workers after, seconds", time.time() - begun, "")
        assert status["restartCount"] == 0
        wait_for_steps(kube, step(kube))
    state = kube.state("digits-0-1")
    assert (state["progress"]["resumedFromStep"], state["restarts"]) == (0, [])
    measure("epochs with every sample once, through both changes", audit.complete_epochs(kube, "digits-0-1"), "")


def told(kube: Kube, workers: str) -> dict[str, Any] | None:
    status = kube.status("digits")
    return status if (status["workers"], status["phase"]) == (workers, "Running") else None


APART = {
    "labelSelector": {"matchLabels": {"muster.dev/training-job": "digits"}},
    "topologyKey": "kubernetes.io/hostname",
}


@pytest.mark.long
def test_a_worker_that_comes_to_a_bad_node_is_replaced_elsewhere_and_nobody_waits(kube, measure):
    """A server and two workers, on three nodes; the last one's network gets slow before its successor comes there."""
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": APART}]}
    template = {"spec": {"affinity": {"podAntiAffinity": preferred}}}
    wanted = {"minMegabytesPerSecond": "20"}
    strategy = {"type": "parameterServer", "parameterServers": 1}
    kube.apply(jobs.endless(replicas=2, strategy=strategy, preflight=wanted, template=template))
    wait_until_it_trains(kube, "digits-0-1")

    def figures() -> dict[str, dict[str, Any]]:
        return {one["pod"]: one for one in kube.status("digits").get("preflight", [])}

    wait_for("all are measured", lambda: sorted(figures()) == ["digits-0-1", "digits-1-1", "digits-2-1"], 60)
    measure(
        "servers: MB/s of a worker's link", min(float(one.get("megabytesPerSecond", 1e9)) for one in figures().values())
    )
    node = kube.pods("digits")["digits-2-1"]["spec"]["nodeName"]
    assert node != kube.pods("digits")["digits-0-1"]["spec"]["nodeName"]
    with slow_link(node, "40mbit"):
        kubectl("delete", "pod", "digits-2-1", "-n", kube.namespace, "--grace-period=0", "--force")
        restart = wait_for(
            "the successor is found slow",
            lambda: next(
                (one for one in kube.status("digits").get("restarts", []) if one["cause"] == "PreflightFailed"), None
            ),
            90,
        )
        assert (restart["pod"], restart["node"]) == ("digits-2-2", node)
        wait_for("another one is somewhere else", lambda: "digits-2-3" in running(kube), 60)
        assert kube.pods("digits")["digits-2-3"]["spec"]["nodeName"] != node
        wait_for("it is measured", lambda: "digits-2-3" in figures(), 60)
    assert "digits-2-2" not in figures()
    assert {"digits-0-1", "digits-1-1"} <= set(running(kube))
    wait_for_steps(kube, step(kube))
    assert kube.state("digits-0-1")["progress"]["resumedFromStep"] == 0, "nobody went back"


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_server_process_comes_back_from_the_checkpoint(kube, measure, rank):
    kube.apply(served())
    saved = wait_until_it_trains(kube, "digits-0-1")["checkpoint"]["step"]
    kube.run_in(f"digits-{rank}-1", KILL_RANK)
    restart = wait_for_restart(kube, 2)
    measure(f"server {rank} killed to next step, seconds", float(restart["recoverySeconds"]), "")
    assert (restart["pod"], restart["rank"]) == (f"digits-{rank}-1", rank)
    assert restart["stepsLost"] <= jobs.CHECKPOINT_STEPS
    state = wait_until_it_trains(kube, "digits-0-1", attempt=2)
    assert state["progress"]["resumedFromStep"] >= saved
    assert sorted(running(kube)) == [f"digits-{number}-1" for number in range(4)], "in the same pods"


@pytest.mark.long
def test_a_lost_server_pod_is_replaced_and_the_workers_wait_for_it(kube, measure):
    kube.apply(served())
    wait_until_it_trains(kube, "digits-0-1")
    kubectl("delete", "pod", "digits-1-1", "-n", kube.namespace, "--grace-period=0", "--force")
    begun = time.time()
    state = wait_until_it_trains(kube, "digits-0-1", attempt=2)
    measure("server pod deleted to next step, seconds", state["progress"]["firstStepAt"] - begun, "")
    assert state["progress"]["resumedFromStep"] >= jobs.CHECKPOINT_STEPS
    assert sorted(running(kube)) == ["digits-0-1", "digits-1-2", "digits-2-1", "digits-3-1"]
