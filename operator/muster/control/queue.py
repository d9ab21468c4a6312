"""A queue of keys with the semantics of client-go's: coalescing, one worker a key, delays, back-off.

- A key that is added again before it was taken is taken once.
- A key that is added while it is worked on is taken again afterwards, never at the same time.
- `add_after` keeps the earliest of several times asked for.
- `add_failed` delays by an exponential back-off of the key's own failures; `forget` ends them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")


class Timer(Protocol):
    """Something that will happen unless it is cancelled."""

    def cancel(self) -> None: ...


class QueueObserver(Protocol):
    """What is told about a queue, for metrics."""

    def depth(self, keys: int) -> None: ...
    def taken(self, waited: float) -> None: ...
    def retried(self) -> None: ...


class WorkQueue(Generic[K]):
    """Keys waiting to be worked on. All methods are for one event loop."""

    def __init__(
        self,
        *,
        first_delay: float = 0.05,
        longest_delay: float = 60.0,
        observer: QueueObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        self._first_delay, self._longest_delay = first_delay, longest_delay
        self._observer, self._clock = observer, clock
        self._call_later = call_later or _loop_call_later
        self._waiting: deque[K] = deque()
        self._dirty: dict[K, float] = {}  # to be worked on, and since when
        self._processing: set[K] = set()
        self._timers: dict[K, tuple[float, Timer]] = {}
        self._failures: dict[K, int] = {}
        self._arrived: asyncio.Event = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K) -> None:
        """Have the key worked on as soon as it is its turn."""
        if key in self._dirty:
            return
        self._dirty[key] = self._clock()
        if key not in self._processing:
            self._enqueue(key)

    def add_after(self, key: K, delay: float) -> None:
        """Have the key worked on in `delay` seconds, or sooner if that was asked for already."""
        if delay <= 0:
            self.add(key)
            return
        due = self._clock() + delay
        planned = self._timers.get(key)
        if planned is not None:
            if planned[0] <= due:
                return
            planned[1].cancel()
        self._timers[key] = (due, self._call_later(delay, lambda: self._fire(key)))

    def add_failed(self, key: K) -> float:
        """Have the key worked on again after a failure; returns after how many seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2^60 times anything exceeds every longest delay, and larger powers overflow a float.
        delay = min(self._longest_delay, self._first_delay * 2.0 ** min(failures, 60))
        self.add_after(key, delay)
        if self._observer:
            self._observer.retried()
        return delay

    def forget(self, key: K) -> None:
        """The key was worked on without failure: its next failure is its first."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The key whose turn it is. The caller must call `done` with it."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self.take()

    def take(self) -> K:
        """`get` when something waits; an IndexError when nothing does."""
        key = self._waiting.popleft()
        since = self._dirty.pop(key)
        self._processing.add(key)
        if self._observer:
            self._observer.depth(len(self._waiting))
            self._observer.taken(self._clock() - since)
        return key

    def done(self, key: K) -> None:
        """The key is no longer worked on; if it was added meanwhile, it waits for its turn again."""
        self._processing.discard(key)
        if key in self._dirty:
            self._enqueue(key)

    def close(self) -> None:
        """Let go of all timers: nothing is added by itself any more."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _enqueue(self, key: K) -> None:
        self._waiting.append(key)
        self._arrived.set()
        if self._observer:
            self._observer.depth(len(self._waiting))

    def _fire(self, key: K) -> None:
        del self._timers[key]
        self.add(key)


def _loop_call_later(delay: float, callback: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(delay, callback)
