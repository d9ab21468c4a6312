"""PyTorchJob of Kubeflow's training operator: a master and three workers, each with a Service."""

from __future__ import annotations

from typing import Any

from local_cluster import go_builds
from muster.client import PODS, SERVICES, Kind
from tests.bench.jobs import REQUESTS, WORKERS, metadata
from tests.bench.systems.system import CONTROLLER_RUNTIME, LEASE_NAMESPACE, METRICS_PORT, Member, System, Told

_PYTORCHJOBS = Kind("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
_CONTAINER = "pytorch"  # the name by which the operator finds it
_THREADS = 10
"""Of the controller. It has one unless told more."""


def manifest(number: int) -> dict[str, Any]:
    """What its defaults are is filled in. A pod that fails is replaced alone."""

    def replicas(count: int) -> dict[str, Any]:
        worker = {
            "name": _CONTAINER,
            "image": "worker",
            "command": ["train.py", "--epochs", "10"],
            "resources": {"requests": REQUESTS},
            "ports": [{"name": "pytorchjob-port", "containerPort": 23456}],
        }
        return {"replicas": count, "restartPolicy": "OnFailure", "template": {"spec": {"containers": [worker]}}}

    return {
        "apiVersion": _PYTORCHJOBS.api_version,
        "kind": _PYTORCHJOBS.kind,
        "metadata": metadata(number),
        "spec": {
            "nprocPerNode": "auto",
            "runPolicy": {"cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": {"Master": replicas(1), "Worker": replicas(WORKERS - 1)},
        },
    }


def told(job: dict[str, Any]) -> Told:
    """By itself it says Running once the master does; here, once it counts all pods as active."""
    status = job.get("status", {})
    true = [one["type"] for one in status.get("conditions", []) if one["status"] == "True"]
    for phase in ("Succeeded", "Failed"):
        if phase in true:
            return Told(phase)
    active = sum(one.get("active", 0) for one in status.get("replicaStatuses", {}).values())
    return Told("Running" if "Running" in true and active == WORKERS else "Waiting")


def member(labels: dict[str, str]) -> Member:
    """A successor bears the name of whom it succeeds: there is never more than one."""
    index = int(labels["training.kubeflow.org/replica-index"])
    worker = labels["training.kubeflow.org/replica-type"] == "worker"
    return Member(labels["training.kubeflow.org/job-name"], index + worker, attempt=0)


PYTORCHJOB = System(
    name=f"PyTorchJob {go_builds.TRAINING_OPERATOR.version()}",
    jobs=_PYTORCHJOBS,
    label="training.kubeflow.org/job-name",
    container=_CONTAINER,
    made=(PODS, SERVICES, _PYTORCHJOBS),
    manifest=manifest,
    told=told,
    member=member,
    definitions=lambda: sorted(go_builds.build(go_builds.TRAINING_OPERATOR).glob("*.yaml")),
    command=lambda: [
        str(go_builds.build(go_builds.TRAINING_OPERATOR) / "training-operator"),
        *(LEASE_NAMESPACE, f":{METRICS_PORT}", str(_THREADS)),
    ],
    meters=CONTROLLER_RUNTIME,
    build=go_builds.TRAINING_OPERATOR,
    most=100,
)
