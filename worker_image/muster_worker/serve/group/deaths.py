"""The deaths of a group's processes that its front knows of: how many, and all that is known of the last."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster_worker.serve.supervisor import Death


@dataclass(slots=True)
class _Last:
    """`rank` None: the front before this one. `exit_code` None: whoever knows has not told."""

    rank: int | None
    exit_code: int | None
    at: float
    seconds: float | None = None


class Deaths:
    """Times in seconds since the epoch, by the clock of the front where it saw the death itself."""

    def __init__(self, front: Death | None) -> None:
        """`front`: of the one whose place this one has taken."""
        self._fronts = front.count if front is not None else 0
        self._ranks: dict[int, int] = {}
        self._last = _Last(None, front.exit_code, front.at) if front is not None else None

    def saw(self, rank: int) -> None:
        """A rank has gone that had been there."""
        self._ranks[rank] = self._ranks.get(rank, 0) + 1
        self._last = _Last(rank, None, time.time())

    def told(self, rank: int, death: Death) -> None:
        """By the process that has taken the place of that rank: of many that it may tell of, some were seen."""
        known, last = self._ranks.get(rank, 0), self._last
        self._ranks[rank] = max(known, death.count)
        if last is not None and last.rank == rank and last.exit_code is None:
            last.exit_code = death.exit_code
        elif death.count > known and (last is None or death.at > last.at):
            self._last = _Last(rank, death.exit_code, death.at)

    def overcome(self) -> None:
        """The group is whole."""
        if self._last is not None and self._last.seconds is None:
            self._last.seconds = time.time() - self._last.at

    def last(self) -> dict[str, Any] | None:
        """For `/state`; `seconds`: how long the group was not whole, None while it is not."""
        last = self._last
        if last is None:
            return None
        count = self._fronts + sum(self._ranks.values())
        told = {"count": count, "exitCode": last.exit_code, "diedAt": last.at, "seconds": last.seconds}
        return told | {"rank": last.rank}
