"""JobSet: a Job of four pods for each JobSet, which kube-controller-manager makes."""

from __future__ import annotations

from typing import Any

from local_cluster import go_builds
from muster.client import PODS, SERVICES, Kind
from tests.bench.jobs import REQUESTS, WORKERS, metadata
from tests.bench.systems.system import CONTROLLER_RUNTIME, LEASE_NAMESPACE, METRICS_PORT, Member, System, Told

_JOBSETS = Kind("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
_JOBS = Kind("batch", "v1", "jobs", "Job")
_CONTAINER = "worker"


def manifest(number: int) -> dict[str, Any]:
    """What its webhook would fill in is filled in. A pod that fails fails its Job, and all is made anew."""
    worker = {
        "name": _CONTAINER,
        "image": "worker",
        "command": ["train.py", "--epochs", "10"],
        "resources": {"requests": REQUESTS},
    }
    job = {
        "parallelism": WORKERS,
        "completions": WORKERS,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"spec": {"restartPolicy": "Never", "containers": [worker]}},
    }
    return {
        "apiVersion": _JOBSETS.api_version,
        "kind": _JOBSETS.kind,
        "metadata": metadata(number),
        "spec": {
            "successPolicy": {"operator": "All"},
            "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
            "failurePolicy": {"maxRestarts": 10},
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": job}}],
        },
    }


def told(jobset: dict[str, Any]) -> Told:
    status = jobset.get("status", {})
    restarts = status.get("restarts", 0)
    if status.get("terminalState") == "Completed":
        return Told("Succeeded", restarts)
    ready = sum(one["ready"] for one in status.get("replicatedJobsStatus", []))
    return Told(status.get("terminalState") or ("Running" if ready else "Waiting"), restarts)


def member(labels: dict[str, str]) -> Member:
    return Member(
        labels["jobset.sigs.k8s.io/jobset-name"],
        int(labels["batch.kubernetes.io/job-completion-index"]),
        int(labels["jobset.sigs.k8s.io/restart-attempt"]),
    )


JOBSET = System(
    name=f"JobSet {go_builds.JOBSET.version()}",
    jobs=_JOBSETS,
    label="jobset.sigs.k8s.io/jobset-name",
    container=_CONTAINER,
    # Pods that go before their Jobs would be made anew.
    made=(_JOBSETS, _JOBS, PODS, SERVICES),
    manifest=manifest,
    told=told,
    member=member,
    definitions=lambda: sorted(go_builds.build(go_builds.JOBSET).glob("*.yaml")),
    command=lambda: [str(go_builds.build(go_builds.JOBSET) / "jobset"), LEASE_NAMESPACE, f":{METRICS_PORT}"],
    meters=CONTROLLER_RUNTIME,
    build=go_builds.JOBSET,
)
