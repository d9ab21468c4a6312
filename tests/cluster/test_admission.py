"""A job starts whole or not at all, in its turn, and says what it waits for."""

from __future__ import annotations

import time
from typing import Any

import yaml

from tests.cluster import jobs
from tests.cluster.kube import Kube, kubectl, wait_for
from tests.cluster.training import running

GPUS = 12  # of three nodes


def job(name: str, replicas: int, gpus: int = 1, **spec: Any) -> str:
    """A job that takes GPUs and does nothing with them."""
    idle = "import signal; signal.pause()"
    run: dict[str, Any] = {
        "replicas": replicas,
        "script": {"command": ["python3", "-c", idle]},
        "backend": "gloo",
        "processesPerWorker": 1,
        "resources": {"limits": {"nvidia.com/gpu": gpus}, "requests": {"cpu": "20m", "memory": "128Mi"}},
    }
    return yaml.safe_dump(
        {
            "apiVersion": "muster.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": name},
            "spec": run | spec,
        }
    )


def admitted(kube: Kube, name: str) -> dict[str, Any]:
    return next((c for c in kube.status(name).get("conditions", []) if c["type"] == "Admitted"), {})


def waits(kube: Kube, name: str, reason: str, limit: float = 60) -> dict[str, Any]:
    def told() -> dict[str, Any] | None:
        condition = admitted(kube, name)
        return condition if condition.get("reason") == reason else None

    return wait_for(f"{name} says {reason}", told, limit)


def test_of_two_jobs_that_want_more_than_there_is_never_both_hold_a_part(kube, measure):
    kube.apply(job("one", replicas=2, gpus=4))
    kube.apply(job("two", replicas=2, gpus=4))
    wait_for("one of them runs", lambda: len(running(kube, "one")) == 2 or len(running(kube, "two")) == 2, 60)
    first, second = ("one", "two") if running(kube, "one") else ("two", "one")
    wait_for("it says so", lambda: admitted(kube, first).get("status") == "True", 60)
    told = waits(kube, second, "InsufficientCapacity")
    assert "2 workers (" in told["message"]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert kube.pods(second) == {}
    freed = time.time()
    kubectl("delete", "trainingjob", first, "-n", kube.namespace, "--wait=true")
    wait_for("the other's turn has come", lambda: len(running(kube, second)) == 2, 60)
    measure("room freed: the waiting job's pods are made after, seconds", time.time() - freed, "")


def test_the_job_of_higher_priority_goes_first(kube):
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000}
    name = f"{kube.namespace}-high"
    kube.apply(priority | {"metadata": {"name": name}, "preemptionPolicy": "Never", "description": "of a test"})
    try:
        kube.apply(job("first", replicas=3, gpus=4))
        wait_for("all is taken", lambda: len(running(kube, "first")) == 3, 60)
        kube.apply(job("old", replicas=3, gpus=4))
        waits(kube, "old", "InsufficientCapacity")
        kube.apply(job("urgent", replicas=3, gpus=4, scheduling={"priorityClassName": name}))
        waits(kube, "urgent", "InsufficientCapacity")
        kubectl("delete", "trainingjob", "first", "-n", kube.namespace, "--wait=true")
        wait_for("the urgent one runs", lambda: len(running(kube, "urgent")) == 3, 60)
        assert kube.pods("old") == {}
    finally:
        kubectl("delete", "priorityclass", name)


def test_a_job_that_fits_nowhere_says_so(kube, measure):
    begun = time.time()
    kube.apply(job("huge", replicas=1, gpus=5))
    told = waits(kube, "huge", "NeverFits")
    measure("job that fits nowhere: says so after, seconds", time.time() - begun, "at most 5")
    assert "even with nothing else running" in told["message"]
    assert kube.pods("huge") == {}


def test_what_a_job_names_and_is_not_there_is_told_and_waited_for(kube, measure):
    begun = time.time()
    storage = {"persistentVolumeClaim": {"claimName": "models"}, "path": "x"}
    kube.apply(job("digits", replicas=1, storage=storage, source={"configMap": "code"}))
    told = waits(kube, "digits", "ConfigMapNotFound")
    measure("missing ConfigMap and claim: says so after, seconds", time.time() - begun, "at most 5")
    assert "spec.source.configMap: there is no ConfigMap code: create it" in told["message"]
    assert "spec.storage.persistentVolumeClaim.claimName: there is no PersistentVolumeClaim models" in told["message"]
    assert kube.pods("digits") == {}
    kubectl("create", "configmap", "code", "-n", kube.namespace, "--from-literal=a.py=pass")
    kube.apply(jobs.CLAIM)
    created = time.time()
    wait_for("it starts by itself", lambda: running(kube, "digits"), 60)
    measure("made: the job's pods are made after, seconds", time.time() - created, "")


def test_an_image_that_cannot_be_pulled_is_told(kube, measure):
    begun = time.time()
    image = {"spec": {"containers": [{"name": "worker", "image": "localhost/no-such-image:1"}]}}
    kube.apply(job("digits", replicas=1, template=image))

    def told() -> dict[str, Any] | None:
        status = kube.status("digits")
        return status if status.get("reason") in {"ErrImagePull", "ImagePullBackOff"} else None

    status = wait_for("the status names the image's trouble", told, 60)
    measure("image that cannot be pulled: says so after, seconds", time.time() - begun, "at most 5")
    assert "no-such-image" in status["message"]
    assert status["phase"] == "Starting"


def test_a_quota_that_allows_a_part_lets_none_start(kube):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus"}}
    kube.apply(quota | {"spec": {"hard": {"requests.nvidia.com/gpu": "2"}}})
    kube.apply(job("digits", replicas=3))
    told = waits(kube, "digits", "PodsRefused")
    assert "exceeded quota: gpus" in told["message"]
    wait_for("nothing is half placed", lambda: kube.pods("digits") == {}, 60)
    kubectl("delete", "resourcequota", "gpus", "-n", kube.namespace)
    wait_for("it starts by itself", lambda: len(running(kube, "digits")) == 3, 120)
    assert kube.status("digits")["restartCount"] == 0
