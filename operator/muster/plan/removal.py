"""How pods are removed: by their node, or by force where it does not answer.

Removal by force takes away the object and leaves the containers to whoever may still run them, so it asks for the
pod exactly as it was seen: the node controller changes every pod of a node when the node goes, and the kubelet when it
is back, so a look at the node that has become untrue is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Delete

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.pods import Pod


def of_living(pods: Iterable[Pod]) -> tuple[Delete, ...]:
    """Return what to remove so that none of these pods runs any more."""
    return tuple(removal(pod) for pod in pods if not pod.ended and not is_on_its_way(pod))


def is_on_its_way(pod: Pod) -> bool:
    """Whether it is deleted already, and its node is there to end it."""
    return pod.deleting and pod.unreachable_since is None


def removal(pod: Pod) -> Delete:
    """Return what to remove so that this pod is gone."""
    if pod.unreachable_since is None:
        return Delete("Pod", pod.name, pod.uid)
    return _by_force(pod)


def _by_force(pod: Pod) -> Delete:
    return Delete("Pod", pod.name, pod.uid, grace_seconds=0, resource_version=pod.version)
