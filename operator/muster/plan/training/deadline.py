"""How long a job may run: `spec.activeDeadlineSeconds` since its pods were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.timestamps import to_epoch
from muster.plan.training.failures import Verdict

if TYPE_CHECKING:
    from muster.plan.training.view import View


def seconds_left(view: View) -> float | None:
    """Return how long the job may still run; None when it may for ever, or does not run."""
    limit, start = view.job.spec.active_deadline_seconds, view.recorded.get("startTime")
    if limit is None or start is None or not view.admitted:
        return None
    return max(0.0, to_epoch(start) + limit - view.now)


def verdict(view: View) -> Verdict | None:
    """Return why the job ends here and now; None while it has time."""
    if seconds_left(view) != 0:
        return None
    limit = view.job.spec.active_deadline_seconds
    return Verdict("DeadlineExceeded", f"it ran for longer than spec.activeDeadlineSeconds = {limit}")
