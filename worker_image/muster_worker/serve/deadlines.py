"""By when each request has to be answered: one timer for all, since a timer for each costs more than counting does."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from muster_worker.serve.errors import TimedOutError

_FEW = 8
"""So many may be remembered that are answered: to look for them takes longer."""


class Deadlines:
    """For one event loop. All have the same number of seconds, so the oldest is the next to be late."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._watched: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._most = _FEW
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, answer: asyncio.Future[Any]) -> None:
        """From now on it gets a TimedOutError when it has nothing else by then."""
        self._forget_answered()
        self._watched.append((self._loop.time() + self._seconds, answer))
        if len(self._watched) > self._most:  # behind one that takes long, all others would be kept with their outputs
            self._watched = deque(one for one in self._watched if not one[1].done())
            self._most = max(2 * len(self._watched), _FEW)
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        while self._watched and self._watched[0][0] <= self._loop.time():
            _, answer = self._watched.popleft()
            if not answer.done():
                answer.set_exception(TimedOutError(f"no answer within {self._seconds:g} s"))
        self._forget_answered()
        if self._watched:
            self._timer = self._loop.call_at(self._watched[0][0], self._look)

    def _forget_answered(self) -> None:
        while self._watched and self._watched[0][1].done():
            self._watched.popleft()
