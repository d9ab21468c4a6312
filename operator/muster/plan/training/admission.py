"""Gang admission: a job gets all of its pods or none.

A waiting job has no pods at all. What it asks for is compared with what the cluster has left at that moment,
under a lock, so that two jobs never count on the same room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan import requests
from muster.plan.capacity import room_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from muster.plan.model import Capacity
    from muster.plan.training.members import Member

# How soon a job that waits looks again: room appears without an event that Muster would see.
LOOK_AGAIN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether the gang may start, and the sentence that says why or why not."""

    granted: bool
    reason: str
    message: str


def admit(gang: Sequence[Mapping[str, Any]], capacity: Capacity) -> Admission:
    """Return whether all pods of these specs have room together."""
    room = room_for(gang, capacity)
    each = requests.describe(requests.of_pod(gang[0]))
    workers = f"{room.wanted} worker{'s' if room.wanted > 1 else ''} ({each} each)"
    if room.fits:
        return Admission(granted=True, reason="Admitted", message=f"there is room for {workers}")
    if room.never:
        empty = f"even with nothing else running the nodes that take it have room for {room.ever}"
        return Admission(granted=False, reason="NeverFits", message=f"wanted: {workers}; {empty}")
    return Admission(
        granted=False,
        reason="InsufficientCapacity",
        message=f"wanted: {workers}; room now: {room.now}, so none was started",
    )


def after(leaving: Sequence[Member]) -> Admission:
    """Workers of an earlier attempt still hold their ranks."""
    names = ", ".join(member.name for member in leaving)
    return Admission(granted=False, reason="WorkersLeaving", message=f"still on their way out: {names}")


def begun() -> Admission:
    """Some of its pods are there already: the operator that admitted it was lost before it could say so."""
    return Admission(granted=True, reason="Admitted", message="admitted before; the gang is being completed")


def unconditional() -> Admission:
    """`scheduling.gang: none` leaves it to the scheduler."""
    return Admission(
        granted=True,
        reason="NotGanged",
        message="spec.scheduling.gang is none: pods start as they are placed",
    )
