"""How long a rank takes for its own part of a step, without what it waits for others."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

_WAITED = "/proc/thread-self/schedstat"
"""Of a thread, in nanoseconds: what it computed, and what it waited for a core; and how often it got one.

Source: https://docs.kernel.org/scheduler/sched-stats.html
"""


class OwnTime(Protocol):
    """A clock, in seconds. What lies between two looks at it is this rank's own."""

    def __call__(self) -> float: ...

    def reading(self, batches: Iterator[T]) -> Iterator[T]:
        """The same, of whose making all counts: a slow disk is this rank's own."""


class UpToTheFirstWait(OwnTime):
    """All time that goes by, for ranks that wait for one another after both looks only."""

    def __call__(self) -> float:
        return time.monotonic()

    def reading(self, batches: Iterator[T]) -> Iterator[T]:
        return batches


class Awake(OwnTime):
    """The time in which this thread computes, or would but for want of a core, as when its share of one is used up.

    For ranks that wait for one another all the time: waiting for a message on a CPU is sleep. Where the kernel does not
    say who waits for a core, what it computes is all that counts.
    """

    def __init__(self) -> None:
        """For the thread that makes it."""
        self._asleep_over_reading = 0.0
        try:
            self._waited: int | None = os.open(_WAITED, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._waited = None

    def __call__(self) -> float:
        return time.thread_time() + self._for_a_core() + self._asleep_over_reading

    def reading(self, batches: Iterator[T]) -> Iterator[T]:
        while True:
            began, awake = time.monotonic(), self()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._asleep_over_reading += max(0.0, time.monotonic() - began - (self() - awake))
            yield batch

    def _for_a_core(self) -> float:
        if self._waited is None:
            return 0.0
        return int(os.pread(self._waited, 64, 0).split()[1]) / 1e9
