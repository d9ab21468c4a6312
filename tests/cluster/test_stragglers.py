"""A worker that is slower than the others is named for as long as it is; on a node that is bad, it gets no place."""

from __future__ import annotations

import time

import pytest

from tests.cluster import jobs
from tests.cluster.kube import JOB, wait_for
from tests.cluster.nodes import slow_link, slowed_down

RECIPE = {"name": "muster_worker.recipes.digits:Digits", "config": {"epochs": 5000, "batchSize": 512}}


@pytest.mark.long
@pytest.mark.parametrize(
    ("strategy", "replicas"), [("ddp", 3), ("parameterServer", 2), ("fsdp", 2), ("tensor", 2), ("pipeline", 2)]
)
def test_a_slow_worker_is_named_until_it_is_as_fast_as_the_others(kube, measure, strategy, replicas):
    kube.apply(jobs.endless(recipe=RECIPE, replicas=replicas, strategy={"type": strategy}))
    kube.wait_for_phase("digits", "Running", limit=60)
    slow = max(kube.pods("digits").items())[1]["metadata"]  # the last worker: a server comes first

    def named():
        return [one["pod"] for one in kube.status("digits").get("stragglers", [])]

    if strategy == "pipeline":
        time.sleep(10)  # what is usual of a stage is what it has shown
    with slowed_down(slow["uid"], 0.15):
        began = time.monotonic()
        wait_for("the slow worker is named", lambda: named() == [slow["name"]], 60)
        measure(f"slow worker, {strategy}: until it is named, seconds", time.monotonic() - began)
        (found,) = kube.status("digits")["stragglers"]
        measure(f"slow worker, {strategy}: times as long as the others", float(found["slowdown"]))
    began = time.monotonic()
    wait_for("nobody is named any more", lambda: not named(), 60)
    measure(f"slow worker, {strategy}: named no more, seconds after", time.monotonic() - began)
    assert kube.get(JOB, "digits")["status"]["attempt"] == 1, "slowness is no failure"


@pytest.mark.long
def test_a_node_whose_network_is_slow_is_found_before_the_first_step_and_avoided(kube, measure):
    node = "node-3"
    with slow_link(node, "40mbit"):
        began = time.monotonic()
        network = {"interface": "eth0"}
        kube.apply(jobs.endless(replicas=3, preflight={"minMegabytesPerSecond": "50"}, network=network))

        def replaced():
            found = kube.status("digits")
            return found if found.get("phase") == "Running" and found["attempt"] > 1 else None

        status = wait_for("the pod on it has a successor", replaced, 120)
        measure("bad node: apply to training without it, seconds", time.monotonic() - began)
    (record,) = status["restarts"]
    assert (record["cause"], record["node"]) == ("PreflightFailed", node)
    assert "wanted at least 50 (spec.preflight.minMegabytesPerSecond)" in record["message"]
    measure("bad node: MB/s found there", float(record["message"].split("found ")[1].split()[0]))
    assert node not in {pod["spec"]["nodeName"] for pod in kube.pods("digits").values()}
    figures = status["preflight"]
    assert {one["pod"] for one in figures} == set(kube.pods("digits"))
    measure("good nodes: MB/s, the least", min(float(one["megabytesPerSecond"]) for one in figures))
    measure("good nodes: ms there and back, the most", max(float(one["latencyMilliseconds"]) for one in figures))
