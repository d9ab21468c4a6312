"""Which pods are removed, and how.

Those that live beside their successor, because their node could not end them; all that live when the job is
suspended or taken back; and at its end those that `spec.podCleanup` names. Nothing is removed before what it tells
is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.removal import is_on_its_way, of_living, removal

if TYPE_CHECKING:
    from muster.plan.model import Delete
    from muster.plan.training.view import View


def of_superseded(view: View) -> tuple[Delete, ...]:
    """Return what to remove of pods whose rank has a newer pod that the status knows of."""
    newest = {member.rank: member.attempt for member in view.workers.values() if member is not None}
    old = (m for m in view.members if m.attempt < newest.get(m.rank, 0) <= view.recorded_attempt)
    return of_living(old)


def after_the_end(view: View) -> tuple[Delete, ...]:
    """Return what to remove when the job has ended."""
    match view.job.spec.pod_cleanup:
        case "All":
            return tuple(removal(member) for member in view.members if not is_on_its_way(member))
        case "Running":
            return of_living(view.members)
        case "None":
            return ()
