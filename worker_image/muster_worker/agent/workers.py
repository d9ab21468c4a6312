"""The workers of parameter servers: members that come and go while the round of the servers goes on.

Only servers make up a round. A worker that fails is started again by itself, one that is lost has a successor some
time, and while there is no round their ranks go on waiting. Part of the coordinator's state machine, and as pure.

Invariants: of two pods of one rank the newer has the seat; no failure is counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster_worker.agent.rounds import FIRST_BACKOFF, LONGEST_BACKOFF, PROGRESS_WITHOUT_REPORTS, Seat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster_worker.agent.protocol import Failure, Join, Member


@dataclass(slots=True)
class WorkerSeat(Seat):
    """`failed`: its ranks have failed and were not started since. `hung`: it is to stop them, for the whole job made no
    progress. `not_before`: the end of its back-off, which is longer the more `failures` followed one another.
    """

    failed: bool = False
    hung: bool = False
    failures: int = 0
    started_at: float = 0.0
    not_before: float = 0.0
    held_back: bool = False


class Workers:
    def __init__(self, ranks: range) -> None:
        """`ranks`: those that are workers'; none where there are no servers."""
        self._ranks = ranks
        self._seats: dict[int, WorkerSeat] = {}

    def __contains__(self, rank: int) -> bool:
        return rank in self._ranks

    def __iter__(self) -> Iterator[WorkerSeat]:
        """By rank."""
        return iter([seat for _, seat in sorted(self._seats.items())])

    def seat_of(self, member_id: str) -> WorkerSeat | None:
        return next((seat for seat in self._seats.values() if seat.member.id == member_id), None)

    def join(self, now: float, join: Join) -> tuple[WorkerSeat, Member | None]:
        """The seat of a member that may have it, and who had it before where that is somebody else."""
        member, before = join.member, self._seats.get(join.member.rank)
        if before is not None and before.member.id == member.id:
            before.heard_at, before.waiting, before.hung = now, True, False
            return before, None
        seat = self._seats[member.rank] = WorkerSeat(member, now, waiting=True)
        return seat, before.member if before is not None else None

    def beat(self, now: float, seat: WorkerSeat) -> None:
        """The first after it joined says that its ranks start: what it said before is of those that were."""
        if seat.waiting:
            seat.waiting = seat.failed = seat.done = False
            seat.started_at = now

    def fail(self, now: float, seat: WorkerSeat, failures: tuple[Failure, ...]) -> Failure | None:
        """The failure that counts, if it is news."""
        if seat.failed or not failures:
            return None
        seat.failed = True
        seat.failures = 1 if now - seat.started_at >= PROGRESS_WITHOUT_REPORTS else seat.failures + 1
        # Once is a mishap: it may start again at once.
        pause = FIRST_BACKOFF * 2.0 ** (seat.failures - 2) if seat.failures > 1 else 0.0
        seat.not_before = now + min(LONGEST_BACKOFF, pause)
        seat.held_back = pause > 0
        return min(failures, key=lambda failure: failure.secondary)

    def leave(self, seat: WorkerSeat) -> None:
        del self._seats[seat.member.rank]

    def hang(self) -> None:
        for seat in self._seats.values():
            seat.hung = True

    def tick(self, now: float) -> bool:
        """Whether the back-off of one is over."""
        over = [seat for seat in self._seats.values() if seat.held_back and now >= seat.not_before]
        for seat in over:
            seat.held_back = False
        return bool(over)
