"""The pods of a job as the policies see them: who is whose, who runs, who is done, who is lost, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan.nodes import lost_since, unreachable_since
from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from muster.plan.model import Manifest

ATTEMPT = "muster.dev/attempt"
RANK = "muster.dev/rank"
DOMAIN = "muster.dev/topology-domain"


@dataclass(frozen=True, slots=True)
class Member:
    """One pod of a job.

    `unreachable_since` is when its node stopped answering; None while it does. `lost_since` is the same once new pods
    are kept off that node. `unplaced_since` is when the scheduler found that no node takes it; None when one does.
    `changed` is when its object last showed a change, as the API writes it; empty where it shows none. `exit_code` is
    the worker container's once it ended. `domain` is the value of the topology key that it was made for. `last_words`
    is the JSON that its agent left as termination message.
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
    domain: str | None
    last_words: Mapping[str, Any]

    @property
    def succeeded(self) -> bool:
        return self.phase == "Succeeded"

    @property
    def failed(self) -> bool:
        return self.phase == "Failed"

    @property
    def ended(self) -> bool:
        """Its containers are known to have stopped: nothing of it runs any more."""
        return self.succeeded or self.failed

    @property
    def running(self) -> bool:
        return self.phase == "Running" and not self.deleting and self.unreachable_since is None


def members(pods: Iterable[Manifest], nodes: Mapping[str, Manifest]) -> tuple[Member, ...]:
    """Return the job's pods, by rank and then by attempt."""
    return tuple(sorted((_member(pod, nodes) for pod in pods), key=lambda member: (member.rank, member.attempt)))


def newest(of: Iterable[Member], replicas: int) -> dict[int, Member | None]:
    """Return for every rank of the job the pod of its highest attempt; None where there is no pod."""
    by_rank: dict[int, Member | None] = dict.fromkeys(range(replicas))
    for member in of:
        known = by_rank.get(member.rank)
        if member.rank in by_rank and (known is None or known.attempt < member.attempt):
            by_rank[member.rank] = member
    return by_rank


def _member(pod: Manifest, nodes: Mapping[str, Manifest]) -> Member:
    metadata, status = pod["metadata"], pod.get("status", {})
    node_name = pod["spec"].get("nodeName")
    node = nodes.get(node_name) if node_name else None
    ended = _worker_status(status).get("state", {}).get("terminated", {})
    return Member(
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        rank=int(metadata["labels"][RANK]),
        attempt=int(metadata["labels"][ATTEMPT]),
        phase=status.get("phase", "Pending"),
        node=node_name,
        address=status.get("podIP"),
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", [])),
        deleting="deletionTimestamp" in metadata,
        unreachable_since=unreachable_since(node) if node else None,
        lost_since=lost_since(node) if node else None,
        unplaced_since=_unplaced_since(metadata, status),
        changed=_changed(metadata, status),
        exit_code=ended.get("exitCode"),
        reason=status.get("reason") or ended.get("reason") or _waiting(status).get("reason", ""),
        message=status.get("message") or _waiting(status).get("message", ""),
        domain=metadata["labels"].get(DOMAIN),
        last_words=_parse(ended.get("message", "")),
    )


def _worker_status(status: Manifest) -> Mapping[str, Any]:
    return next((c for c in status.get("containerStatuses", []) if c["name"] == "worker"), {})


def _waiting(status: Manifest) -> Mapping[str, str]:
    """Return why the pod has not started: its container waits, or no node takes it.

    `ContainerCreating` and `PodInitializing` are the ordinary course of things and say nothing.
    """
    waiting: Mapping[str, str] = _worker_status(status).get("state", {}).get("waiting", {})
    if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
        return waiting
    return _unplaced(status)


def _unplaced(status: Manifest) -> Mapping[str, str]:
    """Return the scheduler's word that no node takes the pod; empty when one does, or nothing was said."""
    said = (c for c in status.get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "False")
    return next(said, {})


def _unplaced_since(metadata: Manifest, status: Manifest) -> float | None:
    said = _unplaced(status).get("lastTransitionTime")
    return to_epoch(said) if said and "deletionTimestamp" not in metadata else None


def _changed(metadata: Manifest, status: Manifest) -> str:
    """Return the newest time that it bears: as text they sort as they do as times."""
    moments = (c.get("lastTransitionTime") or "" for c in status.get("conditions", []))
    return max(metadata.get("creationTimestamp") or "", *moments, "")


def _parse(message: str) -> Mapping[str, Any]:
    """A message that is no JSON object is somebody else's: the worker image may have other entry points."""
    try:
        parsed = json.loads(message)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
