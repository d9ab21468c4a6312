"""Jobs, pods and nodes as the API server would send them, in one readable line each."""

from __future__ import annotations

import json
from typing import Any

from muster.plan import queue
from muster.plan.capacity import Capacity
from muster.plan.model import Admission, Demand, Observed, Settings, WorkerReport
from muster.plan.timestamps import to_timestamp
from muster.plan.training.planner import plan

NOW = 1_800_000_000.0
UID = "7e57ab1e-0000-4000-8000-000000000001"
SETTINGS = Settings(worker_image="muster-worker:test")


def job(**spec: Any) -> dict[str, Any]:
    defaults = {"replicas": 3, "recipe": {"name": "pkg.module:Recipe"}}
    if "script" in spec:
        defaults.pop("recipe")
    return {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {
            "name": "digits",
            "namespace": "research",
            "uid": UID,
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": to_timestamp(NOW - 60),
        },
        "spec": defaults | spec,
    }


def started(resource: dict[str, Any], attempt: int = 1, **status: Any) -> dict[str, Any]:
    """The job with the status that its first pods leave."""
    base = {
        "phase": "Running",
        "reason": "Training",
        "message": "all 3 workers train",
        "attempt": attempt,
        "startTime": to_timestamp(NOW - 50),
        "conditions": [
            {
                "type": "Admitted",
                "status": "True",
                "reason": "Admitted",
                "message": "there is room",
                "observedGeneration": 1,
                "lastTransitionTime": to_timestamp(NOW - 50),
            }
        ],
    }
    return resource | {"status": base | status}


def pod(
    rank: int, attempt: int = 1, phase: str = "Running", node: str | None = "node-1", **more: Any
) -> dict[str, Any]:
    """`more`: exit_code, reason, deleting, last_words, waiting."""
    name = f"digits-{rank}-{attempt}"
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "research",
        "uid": f"uid-{name}",
        "resourceVersion": "7",
        "labels": {
            "muster.dev/rank": str(rank),
            "muster.dev/attempt": str(attempt),
            "muster.dev/job-uid": UID,
        },
    }
    if more.get("deleting"):
        metadata["deletionTimestamp"] = to_timestamp(NOW)
    state: dict[str, Any] = {"running": {}} if phase == "Running" else {}
    if phase in {"Succeeded", "Failed"}:
        state["terminated"] = {
            "exitCode": more.get("exit_code", 0 if phase == "Succeeded" else 1),
            "reason": more.get("reason", "Completed" if phase == "Succeeded" else "Error"),
            "message": json.dumps(more.get("last_words", {})),
        }
    if "waiting" in more:
        state["waiting"] = {"reason": more["waiting"], "message": "no such image"}
    ready = "True" if phase == "Running" else "False"
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "worker"}]} | ({"nodeName": node} if node else {}),
        "status": {
            "phase": phase,
            "podIP": f"10.0.0.{rank + 1}",
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [{"name": "worker", "state": state}],
        },
    }


def beside_a_proxy(made: dict[str, Any]) -> dict[str, Any]:
    """The same pod, in which a container that was put there by something else runs on."""
    made["status"]["phase"] = "Running"
    made["status"]["containerStatuses"].append({"name": "proxy", "state": {"running": {}}})
    return made


def node(
    name: str = "node-1", *, ready: str = "True", since: float = NOW - 100, gpus: int = 4, **spec: Any
) -> dict[str, Any]:
    if ready == "Unknown":
        spec = {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]} | spec
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110", "nvidia.com/gpu": str(gpus)},
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": to_timestamp(since)}],
        },
    }


def nodes(*of: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {n["metadata"]["name"]: n for n in of}


def report(**state: Any) -> WorkerReport:
    base = {
        "attempt": 1,
        "coordinates": True,
        "phase": "Running",
        "worldSize": 3,
        "restarts": [],
        "progress": {},
        "metrics": {},
    }
    return WorkerReport(state=base | state, received_at=NOW)


def observed(resource: dict[str, Any], *pods: dict[str, Any], **more: Any) -> Observed:
    more.setdefault("nodes", nodes(node("node-1"), node("node-2"), node("node-3")))
    return Observed(resource=resource, pods=pods, **more)


def room(*pods: dict[str, Any], of: tuple[dict[str, Any], ...] | None = None, **more: Any) -> Capacity:
    return Capacity.count(of if of is not None else (node("node-1"), node("node-2"), node("node-3")), pods, NOW, **more)


def admitted(demand: Demand, capacity: Capacity, now: float = NOW) -> Admission:
    """The answer to one who stands in line alone."""
    answers, _ = queue.admit({"it": demand}, {}, capacity, queue.Priorities({}), now)
    return answers["it"]


def decide(
    resource: dict[str, Any], *pods: dict[str, Any], now: float = NOW, capacity: Capacity | None = None, **more: Any
) -> Any:
    """The plan; where it asks for room and there is a capacity, the plan with the answer."""
    answer = plan(observed(resource, *pods, **more), SETTINGS, now)
    if answer.demand is None or capacity is None:
        return answer
    return plan(observed(resource, *pods, **more, admission=admitted(answer.demand, capacity, now)), SETTINGS, now)


def names(manifests: Any) -> list[str]:
    return [manifest["metadata"]["name"] for manifest in manifests]


def started_at_once(**spec: Any) -> Any:
    """The plan for a job that nothing keeps from starting."""
    return decide(job(**{"scheduling": {"gang": "none"}} | spec), capacity=room())
