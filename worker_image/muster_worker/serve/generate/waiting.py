"""Texts that have no slot yet, and whose turn it is to take one: of those that compute, the one with the fewest."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from muster_worker.serve.generate.generation import Generation
    from muster_worker.serve.generate.lane import Lane

_LOOK = 0.1
"""Seconds after which is looked again who is able to compute, while somebody waits: nobody tells of that."""


class Waiting:
    """The oldest first. For all threads."""

    def __init__(self) -> None:
        self._lanes: Sequence[Lane] = ()
        self._generations: deque[Generation] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Of those that somebody waits for."""
        with self._changed:
            self._generations = deque(one for one in self._generations if not one.ended.done())
            return len(self._generations)

    def serve(self, lanes: Sequence[Lane]) -> None:
        """All that take from here; told once, before they start."""
        self._lanes = lanes

    def add(self, generation: Generation) -> None:
        with self._changed:
            self._generations.append(generation)
            self._changed.notify_all()

    def put_back(self, generations: Iterable[Generation]) -> None:
        """They had their turn, and are the first again, in their order."""
        with self._changed:
            self._generations.extendleft(reversed(list(generations)))
            self._changed.notify_all()

    def take(self, lane: Lane) -> Generation | None:
        """The next, if it is this one's turn; whoever does not wait any more is left out."""
        with self._changed:
            while self._is_turn_of(lane):
                generation = self._generations.popleft()
                if not generation.ended.done():
                    lane.active[generation.sequence] = generation
                    self._changed.notify_all()  # another may have the fewest now
                    return generation
            return None

    def until_work(self, lane: Lane) -> bool:
        """Waits until there is something to compute; False once nothing is to be any more."""
        with self._changed:
            while not (lane.active or self._closed or self._is_turn_of(lane)):
                self._changed.wait(_LOOK if self._generations else None)
            return not self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_turn_of(self, lane: Lane) -> bool:
        if not (self._generations and lane.free and lane.able):
            return False
        return all(len(lane.active) <= len(other.active) for other in self._lanes if other.able)
