"""The ModelDeployments of the benchmark: how one is written, and how it and its pods read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from muster.client import BUDGETS, PODS, REVISIONS, SERVICES
from muster.control.kinds import MODEL_DEPLOYMENTS
from tests.bench import systems
from tests.bench.jobs import namespace
from tests.bench.systems.muster import MUSTER
from tests.bench.systems.system import Member, Told

GROUPS, SIZE = 2, 2
LARGE, SURGE = 100, 10
"""Groups of the one large deployment, and how many of them may be there beyond those in a rollout."""
REQUESTS = {"cpu": "1", "memory": "4Gi"}


def manifest(number: int, groups: int = GROUPS) -> dict[str, Any]:
    return {
        "apiVersion": MODEL_DEPLOYMENTS.api_version,
        "kind": MODEL_DEPLOYMENTS.kind,
        "metadata": {"name": f"serve-{number}", "namespace": namespace(number)},
        "spec": {
            "model": {"uri": "https://models.example/digits"},
            "replicas": groups,
            "group": {"size": SIZE},
            "resources": {"requests": REQUESTS},
            "rollout": {"maxSurge": SURGE if groups == LARGE else 1},
        },
    }


def told(deployment: dict[str, Any]) -> Told:
    status = deployment.get("status", {})
    return Told(status.get("phase", "New"), status.get("attempt", 0))


def member(labels: dict[str, str]) -> Member:
    """Each pod of each group is a rank."""
    rank = int(labels["muster.dev/group"]) * SIZE + int(labels["muster.dev/rank"])
    return Member(labels["muster.dev/model-deployment"], rank, int(labels["muster.dev/attempt"]))


def phase(pod: dict[str, Any]) -> str:
    """Return Ready for one that is, else what Kubernetes says."""
    status = pod.get("status", {})
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))
    return "Ready" if ready else systems.system.phase(pod)


DEPLOYMENTS = replace(
    MUSTER,
    jobs=MODEL_DEPLOYMENTS,
    label="muster.dev/model-deployment",
    made=(PODS, SERVICES, BUDGETS, REVISIONS, MODEL_DEPLOYMENTS),
    manifest=manifest,
    told=told,
    member=member,
    phase=phase,
    resync=None,
)
