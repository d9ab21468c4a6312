"""Which pods are removed, and how.

Lost ones that their node cannot end, at once; and when a job has ended, those that still run. Ended pods stay for
their logs. Removal by force takes away the object and leaves the containers to whoever may still run them, so it
asks for the pod exactly as it was seen: the node controller changes every pod of a node when the node goes, and the
kubelet when it is back, so a look at the node that has become untrue is refused.
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


def of_leftovers(view: View) -> tuple[Delete, ...]:
    """Return what to remove when the job has ended."""
    return tuple(
        Delete("Pod", member.name, member.uid) if member.unreachable_since is None else _by_force(member)
        for member in view.members
        if _is_left(member)
    )


def _is_left(member: Member) -> bool:
    return not member.ended and (not member.deleting or member.unreachable_since is not None)


def _by_force(member: Member) -> Delete:
    return Delete("Pod", member.name, member.uid, grace_seconds=0, resource_version=member.version)
