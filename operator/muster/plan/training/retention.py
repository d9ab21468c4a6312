"""How long a job that is over is kept: `spec.ttlSecondsAfterFinished`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Delete
from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from muster.plan.training.view import View


def seconds_left(view: View) -> float | None:
    """Return how long the job is still kept after its end; None when it is kept for good."""
    ttl, end = view.job.spec.ttl_seconds_after_finished, view.recorded.get("completionTime")
    if ttl is None or end is None:
        return None
    return max(0.0, to_epoch(end) + ttl - view.now)


def removal(view: View) -> tuple[Delete, ...]:
    """Return the deletion of the job itself, once its time is over; its pods go with it."""
    if seconds_left(view) != 0:
        return ()
    return (Delete("TrainingJob", view.name, view.job.metadata.uid),)
