"""Which pods are cut off, told to Kubernetes: seconds after a node is gone, not when its controller believes it.

Every pod has the readiness gate `muster.dev/reachable`. It is opened as soon as the pod is made, and closed when
the pod, or another of its group, has not answered the operator for `failover.unreachableSeconds` while some other pod
does: where none answers, it is the operator who is cut off. A kubelet that is there draws its conclusion by itself; for
one that is not, the pod is called not ready here, as the node controller does much later. With no operator, gates stay
as they are. They are opened again where the pods that took their place are as silent, and nothing of the deployment is
heard: something is in the way of the operator alone, such as a NetworkPolicy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.model import StatusPart
from muster.plan.timestamps import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from muster.plan.model import Manifest, Observed
    from muster.plan.serving.groups import Server, Worker

GATE = "muster.dev/reachable"
OWNER = "muster-reachability"
AGAIN = 1.0
"""Seconds of silence at least: where there are so many pods that questions come late, one lost answer says nothing."""


def cut_off(pod: Worker, observed: Observed, patience: float, now: float) -> bool:
    """Return whether the pod should answer, and has not for so long."""
    return seconds_left(pod, observed, patience, now) == 0 and now - observed.heard_at < patience


def seconds_left(pod: Worker, observed: Observed, patience: float, now: float) -> float | None:
    """Return after how many seconds the pod is cut off; None while it answers, or need not.

    What was not answered before it began to serve says nothing, nor does what nobody answered: of many, one is the
    first that is heard again.
    """
    report, since = observed.reports.get(pod.uid), pod.serving_since
    if since is None or report is None or report.silent_since is None or report.silent_since < since:
        return None
    last, (unheard, heard) = max(report.received_at, since), observed.unheard
    missed = last + patience + max(0.0, heard - max(unheard, last))
    return max(0.0, max(missed, report.silent_since + AGAIN) - now)


def parts(
    servers: Iterable[Server], namespace: str, now: float, unheard: Collection[int] = ()
) -> tuple[StatusPart, ...]:
    """Return which gates are to be opened or closed, and which pods called not ready.

    `unheard`: the groups of which nothing can be heard, however they are.

    Of a group on one node, one pod is found to be cut off first: that closes all gates, and nobody but the operator
    calls the others not ready when their time has come.
    """
    return tuple(
        _part(pod, namespace, now, closed=closed)
        for one in servers
        for closed in [one.cut_off and one.group not in unheard]
        for pod in one.pods
        if not (pod.ended or pod.deleting) and (pod.gate is closed or pod.gate is None or (closed and _is_amiss(pod)))
    )


def opened(created: Iterable[Manifest], now: float) -> tuple[StatusPart, ...]:
    """Return the gates of pods that are being made: they are open before anybody waits for them."""
    return tuple(
        _status({name: pod["metadata"][name] for name in ("name", "namespace")}, [_condition(GATE, now, holds=True)])
        for pod in created
    )


def _is_amiss(pod: Worker) -> bool:
    """Whether it is called ready, and nobody but the operator knows better."""
    return pod.cut_off and pod.ready


def _part(pod: Worker, namespace: str, now: float, *, closed: bool) -> StatusPart:
    said = [_condition(GATE, now, holds=not closed)]
    if closed and pod.cut_off:
        said.append(_condition("Ready", now, holds=False))
    return _status({"name": pod.name, "namespace": namespace, "uid": pod.uid}, said)


def _status(metadata: dict[str, Any], conditions: list[dict[str, Any]]) -> StatusPart:
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"conditions": conditions}}
    return StatusPart(manifest, OWNER)


def _condition(kind: str, now: float, *, holds: bool) -> dict[str, Any]:
    silent = {"reason": "Unreachable", "message": "the pod, or another of its group, does not answer Muster"}
    return {"type": kind, "status": str(holds), "lastTransitionTime": to_timestamp(now)} | ({} if holds else silent)
