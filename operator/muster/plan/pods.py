"""A pod as the policies see it: who runs, who is done, who is lost, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan.nodes import lost_since, unreachable_since
from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.plan.model import Manifest

RANK = "muster.dev/rank"
ATTEMPT = "muster.dev/attempt"

KNOWN_REASONS = {
    "OOMKilled": "OutOfMemory",
    "Evicted": "Evicted",
    "Preempting": "Preempted",
    "NodeShutdown": "NodeShutdown",
    "Terminated": "NodeShutdown",
    "UnexpectedAdmissionError": "Rejected",
    "OutOfcpu": "Rejected",
    "OutOfmemory": "Rejected",
    "NodeAffinity": "Rejected",
}
"""What the kubelet and the controllers write as a pod's reason, and what we call it."""

FAILED = "PodFailed"
"""What we call any other."""

ENDED = frozenset({FAILED, *KNOWN_REASONS.values()})
"""What we call it where a pod has ended by itself."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod, whose container `worker` does the work.

    `unreachable_since` is when its node stopped answering; None while it does. `lost_since` is the same once new pods
    are kept off that node. `unplaced_since` is when the scheduler found that no node takes it; None when one does.
    `changed` is when its object last showed a change, as the API writes it; empty where it shows none. `exit_code` is
    the worker container's once it ended.
    """

    name: str
    uid: str
    version: str
    rank: int
    attempt: int
    phase: str
    node: str | None
    address: str | None
    ready: bool
    deleting: bool
    unreachable_since: float | None
    lost_since: float | None
    unplaced_since: float | None
    changed: str
    exit_code: int | None
    reason: str
    message: str

    @property
    def succeeded(self) -> bool:
        return self.phase == "Succeeded"

    @property
    def failed(self) -> bool:
        return self.phase == "Failed"

    @property
    def ended(self) -> bool:
        """Its containers are known to have stopped: nothing of it runs any more."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def running(self) -> bool:
        return self.phase == "Running" and not self.deleting and self.unreachable_since is None


def read(pod: Manifest, nodes: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return the fields of `Pod`."""
    metadata, status = pod["metadata"], pod.get("status", {})
    node_name = pod["spec"].get("nodeName")
    node = nodes.get(node_name) if node_name else None
    ended = worker_status(pod).get("state", {}).get("terminated", {})
    waiting = _waiting(pod)
    return {
        "name": metadata["name"],
        "uid": metadata["uid"],
        "version": metadata["resourceVersion"],
        "rank": int(metadata["labels"][RANK]),
        "attempt": int(metadata["labels"][ATTEMPT]),
        "phase": status.get("phase", "Pending"),
        "node": node_name,
        "address": status.get("podIP"),
        "ready": (condition(pod, "Ready") or {}).get("status") == "True",
        "deleting": "deletionTimestamp" in metadata,
        "unreachable_since": unreachable_since(node) if node else None,
        "lost_since": lost_since(node) if node else None,
        "unplaced_since": _unplaced_since(pod),
        "changed": _changed(metadata, status),
        "exit_code": ended.get("exitCode"),
        "reason": status.get("reason") or ended.get("reason") or waiting.get("reason", ""),
        "message": status.get("message") or waiting.get("message", ""),
    }


def worker_status(pod: Manifest) -> Mapping[str, Any]:
    """Return what the kubelet says of the container `worker`."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return next((c for c in statuses if c["name"] == "worker"), {})


def condition(pod: Manifest, kind: str) -> Mapping[str, Any] | None:
    return next((c for c in pod.get("status", {}).get("conditions", []) if c["type"] == kind), None)


def _waiting(pod: Manifest) -> Mapping[str, str]:
    """Return why the pod has not started: its container waits, or no node takes it.

    `ContainerCreating` and `PodInitializing` are the ordinary course of things and say nothing.
    """
    waiting: Mapping[str, str] = worker_status(pod).get("state", {}).get("waiting", {})
    if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
        return waiting
    return _unplaced(pod)


def _unplaced(pod: Manifest) -> Mapping[str, str]:
    """Return the scheduler's word that no node takes the pod; empty when one does, or nothing was said."""
    said = condition(pod, "PodScheduled")
    return said if said is not None and said["status"] == "False" else {}


def _unplaced_since(pod: Manifest) -> float | None:
    said = _unplaced(pod).get("lastTransitionTime")
    return to_epoch(said) if said and "deletionTimestamp" not in pod["metadata"] else None


def _changed(metadata: Manifest, status: Manifest) -> str:
    """Return the newest time that it bears: as text they sort as they do as times."""
    moments = (c.get("lastTransitionTime") or "" for c in status.get("conditions", []))
    return max(metadata.get("creationTimestamp") or "", *moments, "")
