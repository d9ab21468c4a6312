"""Deployments, their pods and their reports as the API server would send them, in one readable line each."""

from __future__ import annotations

from typing import Any

from muster.api import ModelDeployment
from muster.plan.model import Observed, Settings, WorkerReport
from muster.plan.serving import revisions
from muster.plan.serving.planner import plan
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW, node, nodes

UID = "7e57ab1e-0000-4000-8000-000000000002"
SETTINGS = Settings(worker_image="muster-worker:test", torchserve_image="muster-torchserve:test")
CLAIM = {"persistentVolumeClaim": {"claimName": "models", "path": "digits/model"}}


def deployment(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "digits", "namespace": "research", "uid": UID, "generation": 1, "resourceVersion": "1"},
        "spec": {"model": CLAIM, "replicas": 2} | spec,
    } | ({"status": status} if status is not None else {})


def revision(number: int = 1, **spec: Any) -> dict[str, Any]:
    """The ControllerRevision of such a deployment."""
    of = ModelDeployment.model_validate(deployment(**spec))
    model = {"claimName": "models", "path": "digits/model"}
    made = revisions.build(of, revisions.new(of, model, SETTINGS, {}))
    return made | {"revision": number, "metadata": made["metadata"] | {"uid": f"uid-{made['metadata']['name']}"}}


def name_of(controller_revision: dict[str, Any]) -> str:
    return str(controller_revision["metadata"]["labels"]["muster.dev/revision"])


def pod(group: int, attempt: int, of: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A pod of a revision that answers. `more`: rank, ready, called_unready (not by its kubelet), deleting, node,
    phase, unplaced, restarts, died, dead (it has died and was not started again yet), evicted, gate, serving_since,
    turned (when it became ready, or ready no more).
    """
    rank = more.get("rank", 0)
    name = f"digits-serve-{group}-{attempt}" + (f"-{rank}" if rank else "")
    phase = more.get("phase", "Running")
    ready = more.get("ready", phase == "Running") and not more.get("unplaced")
    placed, since = node_of(more) is not None, to_timestamp(more.get("serving_since", NOW - 40))
    conditions = [
        {
            "type": "Ready",
            "status": str(bool(ready) and not more.get("called_unready")),
            "lastTransitionTime": to_timestamp(more.get("turned", NOW - 40)),
        },
        {"type": "ContainersReady", "status": str(bool(ready)), "lastTransitionTime": since},
        {"type": "PodScheduled", "status": str(placed), "lastTransitionTime": to_timestamp(NOW - 50)}
        | ({} if placed else {"reason": "Unschedulable", "message": more.get("unplaced")}),
    ]
    if "gate" in more:
        conditions.append({"type": "muster.dev/reachable", "status": more["gate"]})
    if more.get("evicted"):
        conditions.append({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"})
    container: dict[str, Any] = {"name": "worker", "restartCount": more.get("restarts", 0), "state": {"running": {}}}
    if "died" in more:
        container["lastState"] = {"terminated": more["died"]}
    if "dead" in more:
        container["state"] = {"terminated": more["dead"]}
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "research",
        "uid": f"uid-{name}",
        "resourceVersion": "7",
        "labels": {
            "muster.dev/group": str(group),
            "muster.dev/revision": name_of(of),
            "muster.dev/rank": str(rank),
            "muster.dev/group-size": str(of["data"]["shape"].get("group", {}).get("size", 1)),
            "muster.dev/attempt": str(attempt),
        },
    }
    if more.get("deleting"):
        metadata["deletionTimestamp"] = to_timestamp(NOW)
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "worker"}]} | ({"nodeName": node_of(more)} if placed else {}),
        "status": {
            "phase": "Pending" if more.get("unplaced") else phase,
            "podIP": f"10.{rank}.{attempt}.{group + 1}",
            "conditions": conditions,
            "containerStatuses": [container],
        },
    }


def pair(group: int, attempt: int, of: dict[str, Any], *, leader: Any = None, member: Any = None) -> Any:
    """Both pods of a group of two; `leader` and `member`: what is special about each, as for `pod`."""
    return pod(group, attempt, of, **(leader or {})), pod(group, attempt, of, rank=1, **(member or {}))


def node_of(more: dict[str, Any]) -> str | None:
    return None if more.get("unplaced") else more.get("node", "node-1")


def known(current: dict[str, Any], target: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The status of a deployment whose groups all had the revision `current` before `target` was asked for."""
    target = target or current
    rollout = {"startedAt": to_timestamp(NOW - 30), "progressedAt": to_timestamp(NOW - 30), "updated": 0}
    return {
        "phase": "Ready",
        "attempt": 2,
        "madeReplicas": 2,
        "revision": {"current": name_of(current), "target": name_of(target)},
        "rollout": rollout,
    } | more


def decide(
    resource: dict[str, Any], *pods: dict[str, Any], now: float = NOW, settings: Settings = SETTINGS, **more: Any
) -> Any:
    more.setdefault("nodes", nodes(node("node-1"), node("node-2"), node("node-3")))
    return plan(Observed(resource=resource, pods=pods, **more), settings, now)


def answered(**state: Any) -> WorkerReport:
    base = {"ready": True, "requestsPerSecond": 10.0, "errorRate": 0.0, "latencyP50": 0.002, "latencyP99": 0.008}
    return WorkerReport(state=base | state, received_at=NOW)


def made(answer: Any) -> list[tuple[int, str]]:
    """The groups that get a pod, and of which revision."""
    labels = [one["metadata"]["labels"] for one in answer.creates]
    return [(int(one["muster.dev/group"]), one["muster.dev/revision"]) for one in labels]


def leaving(answer: Any) -> list[str]:
    return [one.name for one in answer.deletes if one.kind == "Pod"]


def said(answer: Any) -> dict[str, str]:
    """The conditions by type."""
    return {one["type"]: one["status"] for one in answer.status["conditions"]}
