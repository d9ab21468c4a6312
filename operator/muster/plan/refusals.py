"""How long to wait before what the API server refused is tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.plan.model import Refusal

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 120.0


def pause(refusal: Refusal | None, now: float, *, besides: bool = False) -> float | None:
    """Return the seconds until the next try; None when it is due, or nothing was refused.

    `besides`: of what pods do not wait for; else of the others. A refusal in the future is from before the clock was
    set back.
    """
    if refusal is None or refusal.besides != besides:
        return None
    whole = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(refusal.times - 1, 10))
    left = refusal.at + whole - now
    return left if 0 < left <= whole else None
