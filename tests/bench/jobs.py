"""What the jobs of the benchmark have in common whoever runs them, and the ends that their pods come to."""

from __future__ import annotations

from typing import Any

from muster.client import Kind
from muster.plan.timestamps import to_timestamp

WORKERS = 4
REQUESTS = {"cpu": "2", "memory": "8Gi"}
"""Of each worker: none has a GPU, since 4,000 on 1,600 would never run at once."""
NAMESPACES = 20
"""Among which the jobs are spread, as among teams: the endpoint controllers compare every pod of a namespace with
every Service in it."""

NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
SLICES = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")


def namespace(number: int) -> str:
    return f"bench-{number % NAMESPACES + 1}"


def namespaces() -> list[str]:
    return [namespace(number) for number in range(NAMESPACES)]


def metadata(number: int) -> dict[str, Any]:
    return {"name": f"train-{number}", "namespace": namespace(number)}


def ended(container: str, exit_code: int, now: float) -> dict[str, Any]:
    """The status of a pod whose container has ended, as a kubelet writes it."""
    moment = to_timestamp(now)
    terminated = {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed"}
    return {
        "phase": "Failed" if exit_code else "Succeeded",
        "conditions": [
            {"type": kind, "status": status, "lastTransitionTime": moment}
            for kind, status in (("PodScheduled", "True"), ("Initialized", "True"), ("Ready", "False"))
        ],
        "containerStatuses": [
            {
                "name": container,
                "image": "worker",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"terminated": terminated},
            }
        ],
    }
