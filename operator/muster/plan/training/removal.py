"""Which pods are removed, and how.

Lost ones that their node cannot end, at once; all that live when the job is suspended; and at its end those that
`spec.podCleanup` names. Removal by force takes away the object and leaves the containers to whoever may still run
them, so it asks for the pod exactly as it was seen: the node controller changes every pod of a node when the node
goes, and the kubelet when it is back, so a look at the node that has become untrue is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Delete

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.training.failures import Loss
    from muster.plan.training.members import Member
    from muster.plan.training.view import View


def of_lost(lost: Iterable[Loss]) -> tuple[Delete, ...]:
    """Return what to remove of lost workers: one that has not ended is on an unreachable node."""
    held = (loss.member for loss in lost if loss.member is not None and not loss.member.ended)
    return tuple(_by_force(member) for member in held)


def of_living(members: Iterable[Member]) -> tuple[Delete, ...]:
    """Return what to remove so that none of these pods runs any more."""
    return tuple(_of(member) for member in members if not member.ended and not _on_its_way(member))


def after_the_end(view: View) -> tuple[Delete, ...]:
    """Return what to remove when the job has ended."""
    match view.job.spec.pod_cleanup:
        case "All":
            return tuple(_of(member) for member in view.members if not _on_its_way(member))
        case "Running":
            return of_living(view.members)
        case "None":
            return ()


def _on_its_way(member: Member) -> bool:
    """It is deleted, and its node is there to end it."""
    return member.deleting and member.unreachable_since is None


def _of(member: Member) -> Delete:
    if member.unreachable_since is None:
        return Delete("Pod", member.name, member.uid)
    return _by_force(member)


def _by_force(member: Member) -> Delete:
    return Delete("Pod", member.name, member.uid, grace_seconds=0, resource_version=member.version)
