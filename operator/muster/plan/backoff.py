"""How long pods wait to be made where those before them have ended soon after one another.

What is lost is replaced at once. But where a node refuses each pod, as while its devices are not known yet, the next
one would be refused within the second, and so on: of a job until its restarts are used up, of a deployment without end.
"""

from __future__ import annotations

FIRST, LONGEST = 2.0, 120.0
"""Seconds that the successor of a second one waits, and those at most."""

SOON = 60.0
"""Seconds within which the loss of what was made is one in a row."""


def pause(times: int) -> float:
    """Return the seconds between the loss of so many in a row and the next one."""
    return min(LONGEST, FIRST * 2.0 ** min(times - 2, 10)) if times > 1 else 0.0


def in_a_row(times: int, at: float, now: float) -> int:
    """Return how many are lost in a row with one that is lost now, after so many of which the last was lost `at`."""
    return times + 1 if 0 <= now - at <= pause(times) + SOON else 1
