"""Which pods are removed, and how.

Those that live beside their successor, because their node could not end them; all that live when the job is
suspended or taken back; and at its end those that `spec.podCleanup` names. Nothing is removed before what it tells
is recorded. Removal by force takes away the object and leaves the containers to whoever may still run them, so it
asks for the pod exactly as it was seen: the node controller changes every pod of a node when the node goes, and the
kubelet when it is back, so a look at the node that has become untrue is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Delete

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.training.members import Member
    from muster.plan.training.view import View


def of_superseded(view: View) -> tuple[Delete, ...]:
    """Return what to remove of pods whose rank has a newer pod that the status knows of."""
    newest = {member.rank: member.attempt for member in view.workers.values() if member is not None}
    old = (m for m in view.members if m.attempt < newest.get(m.rank, 0) <= view.recorded_attempt)
    return of_living(old)


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
