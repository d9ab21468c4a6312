"""Which pods go when a job has ended: those that still run. Ended ones stay for their logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Delete

if TYPE_CHECKING:
    from muster.plan.training.view import View


def leftovers(view: View) -> tuple[Delete, ...]:
    """Return the pods to delete; by force where their node cannot do it any more."""
    return tuple(
        Delete("Pod", member.name, member.uid, grace_seconds=0 if member.unreachable_since is not None else None)
        for member in view.members
        if not member.ended and (not member.deleting or member.unreachable_since is not None)
    )
