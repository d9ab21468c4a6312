"""How long the successors of lost workers wait, where pods end soon after one another.

A process that dies is started again in its pod, by an agent that waits likewise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan import backoff
from muster.plan.pods import ENDED
from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.plan.training.failures import Loss
    from muster.plan.training.view import View


def seconds_left(view: View, lost: Sequence[Loss]) -> float | None:
    """Return the seconds until successors may be made of these; None when they may now."""
    if not all(loss.cause in ENDED for loss in lost):
        return None
    times, last = 0, float("-inf")
    for record in view.recorded.get("restarts", []):
        if record["cause"] in ENDED:
            at = to_epoch(record["at"])
            times, last = backoff.in_a_row(times, last, at), at
    whole = backoff.pause(backoff.in_a_row(times, last, view.now))
    left = last + whole - view.now
    return left if 0 < left <= whole else None
