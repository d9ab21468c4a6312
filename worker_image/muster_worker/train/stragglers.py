"""Which ranks the others wait for.

Ranks that average their gradients end every step together, so a step's length tells nothing of who is slow. What each
does by itself before that does: the time from a step's beginning to the end of its last forward pass. Ranks that divide
a model wait for one another in between too, which does not count (`own_time.py`). Of a worker with parameter servers it
is what computing its share takes, without what it pulls and pushes.

The stages of a pipeline have unequal parts. What is usual of one is the quickest that a rank of that stage has been.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WINDOW = 10.0
"""Seconds that are looked back."""
_LEAST = 0.5
"""The part of the window that has to be there before anybody is called slow."""
_SAMPLES = 250
"""Steps that are looked at in a window; of more, some are left out."""
_FEWEST = 10
_FEWEST_OF_ONE = 3
"""Of a rank that has a part of some steps only, as slow workers have where others go ahead."""
SLOW = 1.5
"""Times as long as the others that is called slow."""
_NOTABLE = 0.001
"""Seconds a step that are worth a word."""
_NAMED = 10
"""Ranks that are named at most, the slowest."""


class Stragglers:
    """On one rank, of all."""

    def __init__(
        self, stage_of: Callable[[int], int] = lambda _rank: 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`stage_of`: those that are of the same have the same to do."""
        self._stage_of = stage_of
        self._clock = clock
        self._quickest: dict[int, float] = {}
        self._steps: deque[tuple[float, Mapping[int, float]]] = deque(maxlen=_SAMPLES)

    def look(self, seconds: Mapping[int, float]) -> None:
        """After a step: what each rank took for its part of it, if it had one."""
        now = self._clock()
        if not self._steps or now - self._steps[-1][0] >= WINDOW / _SAMPLES:
            self._steps.append((now, seconds))

    def slow(self) -> list[dict[str, Any]]:
        """`rank`, and `slowdown`: how many times as long it takes as is usual; the slowest first."""
        now = self._clock()
        while self._steps and now - self._steps[0][0] > WINDOW:
            self._steps.popleft()
        if len(self._steps) < _FEWEST or now - self._steps[0][0] < _LEAST * WINDOW:
            return []
        # Medians over the steps: a rank that saves or evaluates now and then is not slow.
        each = {rank: statistics.median(taken) for rank, taken in self._taken().items() if len(taken) >= _FEWEST_OF_ONE}
        usual = self._usual(each)
        found = [
            {"rank": rank, "slowdown": round(taken / usual[rank], 2)}
            for rank, taken in each.items()
            if taken > SLOW * usual[rank] and taken - usual[rank] > _NOTABLE
        ]
        return sorted(found, key=lambda one: -one["slowdown"])[:_NAMED]

    def _usual(self, each: Mapping[int, float]) -> dict[int, float]:
        """What each would take if it were as fast as the median of all."""
        for rank, taken in each.items():
            stage = self._stage_of(rank)
            self._quickest[stage] = min(taken, self._quickest.get(stage, taken))
        quickest = {rank: self._quickest[self._stage_of(rank)] for rank in each}
        # Of two ranks, the faster one is what the other is held against.
        median = statistics.median_low(taken / quickest[rank] for rank, taken in each.items()) if each else 0.0
        return {rank: median * one for rank, one in quickest.items()}

    def _taken(self) -> dict[int, list[float]]:
        taken: dict[int, list[float]] = {}
        for _, seconds in self._steps:
            for rank, one in seconds.items():
                if one > 0:
                    taken.setdefault(rank, []).append(one)
        return taken
