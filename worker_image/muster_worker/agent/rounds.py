"""What the coordinator remembers, and by which times it judges: the words between its methods."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster_worker.agent.protocol import Failure, Member

SILENCE = 3.0
"""Seconds without a word after which a member counts as lost."""

PATIENCE_FOR_THE_CAUSE = 2.0
"""When ranks died of a peer's end, the rank that is to blame may still be on its way out: so long it may take."""

PATIENCE_FOR_SAVING = 5.0
"""When a member leaves in good order, the ranks of the others are saving the same checkpoint."""

FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 30.0

PROGRESS_WITHOUT_REPORTS = 30.0
"""A round of ranks that report no steps counts as progress when it held so long."""

GATHER = 3.0
"""Seconds from the first newcomer until the group forms anew with all that have come by then: pods that are made
together do not start together.
"""

STARTING_TAKES = 30.0
"""Seconds that an elastic group's first round waits for pods that may still be starting."""

PATIENCE_FOR_GROWING = 60.0
"""The ranks have that long to save what they hold before they form anew with newcomers: nothing presses."""

RECORDS_KEPT = 20


class BreakKind(Enum):
    FAILURE = "a rank failed"
    SILENCE = "a member went silent"
    REPLACED = "a member was replaced"
    REJOINED = "a member lost touch and joined anew"
    LEFT = "a member left"
    REFORM = "a rank asked for a new round"
    HANG = "the ranks made no progress"
    GROWN = "more members have come"


NO_FAULT = (BreakKind.LEFT, BreakKind.REPLACED, BreakKind.GROWN)
PATIENCE = {
    BreakKind.LEFT: PATIENCE_FOR_SAVING,
    BreakKind.REFORM: PATIENCE_FOR_SAVING,
    BreakKind.GROWN: PATIENCE_FOR_GROWING,
}


@dataclass(frozen=True, slots=True)
class Break:
    kind: BreakKind
    reason: str
    at: float
    patience_ends: float


@dataclass(frozen=True, slots=True)
class Restart:
    """A restart of all ranks inside of the same pods. `attempt` is the one that ended; steps and seconds are
    known once the ranks make steps again.
    """

    attempt: int
    failure: Failure
    at: float
    recovery_seconds: float | None = None
    steps_lost: int | None = None


@dataclass(slots=True)
class Seat:
    """What is known of the member that holds a rank."""

    member: Member
    heard_at: float
    waiting: bool = False
    done: bool = False
    stopped: tuple[int, ...] = ()
    told_the_end: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """What the job says of its group.

    `rank_0_decides`: it has succeeded once the first member of its round is done, whatever the others do.
    `hang_timeout`: after so many seconds without a report its ranks hang; None: never. `steps_expected`: they report
    steps from the beginning; otherwise it counts from their first. `least` and `most` members make an elastic group;
    None: it has one for each of its replicas, always. `workers`: how many ranks after those of the round come and go
    beside it: the round is one of parameter servers then.
    """

    rank_0_decides: bool = False
    hang_timeout: float | None = None
    steps_expected: bool = False
    least: int | None = None
    most: int | None = None
    workers: int = 0
