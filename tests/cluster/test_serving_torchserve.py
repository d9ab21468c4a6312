"""runtime: torchserve. What TorchServe computes is rolled out and watched as what Muster's own runtime does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.cluster import deployments, jobs
from tests.cluster.kube import Kube, kubectl, local_cluster, wait_for
from tests.cluster.load import Load
from tests.cluster.nodes import kill_process

if TYPE_CHECKING:
    from tests.cluster.conftest import Measure

NAME = "digits-torchserve"
IMAGE, WORKER_IMAGE = "localhost/muster-torchserve:dev", "localhost/muster-worker:dev"
STARTS = 180
"""Seconds until two groups answer on a busy machine: in each, Java starts and torch is loaded twice."""


@pytest.fixture(scope="module")
def under_load(trained: Kube) -> Iterator[Load]:
    """Two groups that answer, and a pod that asks them all the time."""
    local_cluster("build-image", IMAGE, "worker_image/torchserve", "--base", WORKER_IMAGE, limit=600)
    local_cluster("load-image", IMAGE, limit=600)
    trained.apply(jobs.example("serve-torchserve.yaml"))
    deployments.wait_until_done(trained, NAME, STARTS)
    with Load.start(trained, NAME) as load:
        yield load
    kubectl("delete", "modeldeployment", NAME, "-n", trained.namespace)


@pytest.fixture
def served(under_load: Load) -> Kube:
    """Two groups answer, whatever an earlier test has left."""
    assert deployments.wait_until_done(under_load.kube, NAME, STARTS)["ready"] == "2/2"
    return under_load.kube


@pytest.mark.long
def test_its_pods_have_its_image_and_tell_what_they_answer(served: Kube, load: Load):
    containers = [pod["spec"]["containers"][0] for pod in deployments.living(served, NAME).values()]
    assert {(one["image"], one["args"][0]) for one in containers} == {(IMAGE, "torchserve")}
    load.go_on(100)

    def measured() -> dict[str, str] | None:
        metrics: dict[str, str] = deployments.status(served, NAME).get("metrics", {})
        return metrics if float(metrics.get("requestsPerSecond", 0)) > 0 else None

    metrics = wait_for("the status has what they answer", measured, 30)
    assert float(metrics["errorRate"]) == 0
    assert float(metrics["latencyP99Milliseconds"]) > 0
    assert load.failures() == []


@pytest.mark.long
def test_a_rolling_restart_fails_no_request(served: Kube, load: Load, measure: Measure):
    before = deployments.pods(served, NAME).keys()
    begun = time.monotonic()
    deployments.patch(served, '{"rollout": {"restart": "2026-11-26"}}', NAME)
    status = deployments.wait_until_done(served, NAME, STARTS)
    measure("torchserve: rolling restart of 2 groups", time.monotonic() - begun, "0 failed")
    wait_for("the old pods are gone", lambda: not before & deployments.pods(served, NAME).keys(), 40)
    load.go_on(50)
    assert load.failures() == []
    assert "completedAt" in status["restart"]
    assert "failovers" not in status, "whoever was to leave was not lost"


def test_torchserve_that_is_killed_is_started_again_where_it_was(served: Kube, load: Load, measure: Measure):
    name, pod = next(iter(deployments.living(served, NAME).items()))
    kill_process(pod["metadata"]["uid"], "java")
    done = wait_for("it answers again", lambda: deployments.replaced(served, name, NAME, died=True), STARTS)
    answers = time.time()
    assert (done["cause"], done["exitCode"]) == ("ProcessDied", 137)
    measure("torchserve killed: without an answer, seconds", float(done["replacedSeconds"]), "")
    load.go_on(150)
    failures = load.failures()
    measure("torchserve killed: requests failed, of 50 a second", len(failures), "")
    assert all(failure["sent"] < answers for failure in failures), failures
    assert deployments.pods(served, NAME).keys() >= {name}
