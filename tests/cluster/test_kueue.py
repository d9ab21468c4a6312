"""Jobs that Kueue admits: the real one, from its own source."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster import jobs, kueue
from tests.cluster.kube import Kube, kubectl, wait_for
from tests.cluster.test_admission import admitted, job, waits
from tests.cluster.test_lifecycle import patch
from tests.cluster.training import running, wait_until_it_trains

QUEUED = {"queueName": kueue.LOCAL_QUEUE}


@pytest.fixture(scope="module")
def kueue_runs(installed: None) -> Iterator[None]:
    with kueue.running():
        yield


def delete(kube: Kube, name: str) -> None:
    kubectl("delete", "trainingjob", name, "-n", kube.namespace, "--wait=true")


def test_without_kueue_and_without_a_queue_a_job_says_so_and_starts_by_itself(kube, measure, request):
    begun = time.time()
    kube.apply(job("digits", replicas=2, scheduling=QUEUED))
    told = waits(kube, "digits", "CustomResourceDefinitionNotFound")
    measure("Kueue is not installed: says so after, seconds", time.time() - begun, "at most 5")
    assert "spec.scheduling.queueName: there is no CustomResourceDefinition workloads.kueue.x-k8s.io" in told["message"]
    request.getfixturevalue("kueue_runs")
    told = waits(kube, "digits", "LocalQueueNotFound")
    assert "spec.scheduling.queueName: there is no LocalQueue research: create it" in told["message"]
    begun = time.time()
    kube.apply(job("another", replicas=2, scheduling=QUEUED))
    waits(kube, "another", "LocalQueueNotFound")
    measure("no such LocalQueue: says so after, seconds", time.time() - begun, "at most 5")
    delete(kube, "another")
    assert kube.pods("digits") == {}
    with kueue.queue(kube, gpus=2):
        created = time.time()
        wait_for("it starts by itself", lambda: len(running(kube, "digits")) == 2, 60)
        measure("queue made: the job's pods are made after, seconds", time.time() - created, "")
        for pod in kube.pods("digits").values():
            assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
        wait_for("the pods are ready", lambda: kueue.says(kube, "digits", "PodsReady") == "True", 60)


@pytest.mark.long
def test_of_two_jobs_beyond_the_quota_the_second_runs_after_the_first(kube, measure, kueue_runs):
    with kueue.queue(kube, gpus=3):
        ends = {"command": ["python3", "-c", "import time; time.sleep(8)"]}
        kube.apply(job("first", replicas=2, scheduling=QUEUED, script=ends))
        wait_for("the first runs", lambda: len(running(kube, "first")) == 2, 60)
        kube.apply(job("second", replicas=2, scheduling=QUEUED))
        told = waits(kube, "second", "Pending")
        assert "in LocalQueue research: " in told["message"]
        assert "nvidia.com/gpu" in told["message"]
        assert kube.status("second")["phase"] == "Queued"
        assert kube.pods("second") == {}
        status = kube.wait_for_phase("first", "Succeeded", 90)
        wait_for("Kueue knows that it ended", lambda: kueue.says(kube, "first", "Finished") == "True", 30)
        ended = time.time()
        wait_for("the second runs", lambda: len(running(kube, "second")) == 2, 60)
        measure("quota free: the next job's pods are made after, seconds", time.time() - ended, "")
        assert status["restartCount"] == 0
        wait_for("it says by whom it was admitted", lambda: "Kueue" in admitted(kube, "second")["message"], 30)


@pytest.mark.long
def test_parameter_servers_are_admitted_with_their_workers(kube, kueue_runs):
    strategy = {"type": "parameterServer", "parameterServers": 2}
    recipe = {"name": "muster_worker.recipes.digits:Digits", "config": {"epochs": 2, "batchSize": 64}}
    with kueue.queue(kube, gpus=2):  # of which servers take none
        kube.apply(jobs.endless(replicas=2, strategy=strategy, recipe=recipe, scheduling=QUEUED))
        wait_for("all four run", lambda: len(running(kube)) == 4, 60)
        asked = kueue.workload(kube, "digits")
        assert {one["name"]: one["count"] for one in asked["spec"]["podSets"]} == {"parameter-server": 2, "worker": 2}
        status = kube.wait_for_phase("digits", "Succeeded", 120)
        assert (status["workers"], status.get("restartCount", 0)) == ("2/2", 0)
        wait_for("Kueue knows that it ended", lambda: kueue.says(kube, "digits", "Finished") == "True", 30)


@pytest.mark.long
def test_a_preempted_or_deactivated_job_saves_leaves_and_goes_on_where_it_was(kube, measure, kueue_runs):
    name = f"{kube.namespace}-high"
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000}
    kube.apply(priority | {"metadata": {"name": name}, "preemptionPolicy": "Never", "description": "of a test"})
    try:
        with kueue.queue(kube, gpus=3):
            kube.apply(jobs.endless(scheduling=QUEUED))
            wait_until_it_trains(kube, "digits-0-1")
            begun = time.time()
            kube.apply(job("urgent", replicas=2, scheduling=QUEUED | {"priorityClassName": name}))
            waits(kube, "digits", "Preempted")
            wait_for("the urgent one runs", lambda: len(running(kube, "urgent")) == 2, 90)
            measure("preempted: the other's pods are made after, seconds", time.time() - begun, "")
            assert running(kube, "digits") == [], "both hold quota"
            assert kube.status("digits")["phase"] == "Queued"
            delete(kube, "urgent")
            goes_on(kube, measure, "preempted", attempt=2)

            kueue.set_active(kube, "digits", active=False)
            waits(kube, "digits", "Deactivated")
            wait_for("its quota is free", lambda: kueue.says(kube, "digits", "QuotaReserved") == "False", 90)
            assert running(kube, "digits") == []
            kueue.set_active(kube, "digits", active=True)
            goes_on(kube, measure, "deactivated", attempt=3)

            patch(kube, suspend=True)
            wait_for("a suspended job stands in no queue", lambda: kueue.workload(kube, "digits") is None, 90)
            assert running(kube, "digits") == []
    finally:
        kubectl("delete", "priorityclass", name)


def goes_on(kube: Kube, measure, what: str, attempt: int) -> None:
    """It comes back by itself and loses no step, and none of this was a restart."""
    saved = kube.status("digits")["checkpoint"]["step"]
    state = wait_until_it_trains(kube, f"digits-0-{attempt}", attempt=attempt)
    measure(f"{what}: steps lost", saved - state["progress"]["resumedFromStep"], "at most 0")
    assert state["progress"]["resumedFromStep"] >= saved
    status = kube.wait_for_phase("digits", "Running", limit=60)
    assert (status["attempt"], status["restartCount"]) == (attempt, 0)
