"""Where workers are placed, on what they keep their checkpoints, and which model they start from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster import jobs
from tests.cluster.kube import Kube, kubectl, wait_for
from tests.cluster.test_admission import job, waits
from tests.cluster.training import running, wait_for_restart, wait_until_it_trains

ZONE = "example.org/rack"


@pytest.fixture
def zones() -> Iterator[None]:
    """Two nodes in the west, one in the east."""
    of = {"node-1": "west", "node-2": "east", "node-3": "west"}
    for node, zone in of.items():
        kubectl("label", "node", node, f"{ZONE}={zone}")
    yield
    kubectl("label", "nodes", *of, f"{ZONE}-")


def nodes_of(kube: Kube, name: str) -> set[str]:
    return {pod["spec"]["nodeName"] for pod in kube.pods(name).values()}


def test_workers_that_belong_together_are_placed_in_one_zone_or_not_at_all(kube, zones):
    together = {"topologyKey": ZONE}
    kube.apply(job("fits", replicas=6, scheduling=together))  # of 4 GPUs a node: in the west alone
    wait_for("all are placed", lambda: len(running(kube, "fits")) == 6 and kube.status("fits"), 60)
    assert nodes_of(kube, "fits") == {"node-1", "node-3"}
    assert kube.status("fits")["topologyDomain"] == "west"
    kubectl("delete", "pod", "-n", kube.namespace, "fits-3-1", "--grace-period=1")
    wait_for("its successor runs", lambda: "fits-3-2" in running(kube, "fits"), 60)
    assert len(running(kube, "fits")) == 6, (kube.pods("fits"), kube.status("fits"))
    assert nodes_of(kube, "fits") == {"node-1", "node-3"}

    kube.apply(job("waits", replicas=5, scheduling=together))
    told = waits(kube, "waits", "InsufficientCapacity")
    assert "room now: 4 in east, so none was started" in told["message"]
    kube.apply(job("never", replicas=9, scheduling=together))
    told = waits(kube, "never", "NeverFits")
    assert "the nodes that take it have room for 8" in told["message"]


def ephemeral(**volume: Any) -> str:
    return next(
        yaml.safe_dump(one)
        for one in yaml.safe_load_all(jobs.endless(storage={"ephemeral": {"size": "1Gi", **volume}}))
        if one["kind"] == "TrainingJob"
    )


@pytest.mark.long
def test_with_a_volume_for_each_pod_a_lost_pod_goes_on_from_the_others_checkpoint(kube, measure):
    kube.apply(ephemeral(storageClassName="nowhere"))
    told = waits(kube, "digits", "StorageClassNotFound")
    assert told["message"].startswith("spec.storage.ephemeral.storageClassName: there is no StorageClass nowhere")
    kubectl("delete", "trainingjob", "-n", kube.namespace, "digits")

    kube.apply(ephemeral())
    wait_until_it_trains(kube, "digits-0-1")
    # What the status never knew of, it cannot say to be lost.
    wait_for("the status knows how far it is", lambda: kube.status("digits").get("progress", {}).get("step"), 30)
    deleted = time.time()
    kubectl("delete", "pod", "-n", kube.namespace, "digits-0-1", "--wait=false")
    after = wait_until_it_trains(kube, "digits-0-2", attempt=2)
    record = wait_for_restart(kube, attempt=2)
    seconds = after["progress"]["firstStepAt"] - deleted
    measure("pod of rank 0 and its volume deleted: next step after, seconds", seconds, "at most 8")
    assert after["progress"]["resumedFromStep"] >= jobs.CHECKPOINT_STEPS
    assert record["stepsLost"] <= jobs.CHECKPOINT_STEPS


@pytest.mark.long
def test_a_job_waits_for_the_model_that_it_names_and_starts_from_it(kube, measure):
    student = yaml.safe_load(jobs.example("digits.yaml").split("---")[1])
    student["metadata"]["name"] = "student"
    student["spec"] |= {"initialModel": {"fromTrainingJob": "digits"}}
    student["spec"]["storage"] |= {"path": "student"}
    student["spec"]["recipe"]["config"] |= {"epochs": 1}
    kube.apply(student)
    waits(kube, "student", "TrainingJobNotFound")
    kube.apply(jobs.example("digits.yaml"))
    waits(kube, "student", "WaitingForModel")
    kube.wait_for_phase("digits", "Succeeded", limit=120)
    status = kube.wait_for_phase("student", "Succeeded", limit=60)
    accuracy = float(status["metrics"]["validationAccuracy"])
    measure("one epoch from the model of another job: accuracy", accuracy, "at least 0.97")
    assert accuracy >= 0.97
    assert status["initialModel"]["sha256"] == kube.status("digits")["model"]["sha256"]
