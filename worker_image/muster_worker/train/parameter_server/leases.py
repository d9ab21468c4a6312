"""Who computes what: shares of steps, leased to workers one at a time.

Invariants, whoever comes, goes or is slow:
- a share is leased to one worker at a time, and done once; of a worker that is lost, another gets it;
- shares are leased in the order of steps, none that is more than `staleness` steps ahead of the oldest step that is not
  made yet: with 0, all of a step compute with the same parameters (Ho et al. 2013);
- an epoch's shares are leased once those of the one before are done and evaluated.

Where workers are added and taken away, a step has as many shares as there are workers when it is opened, so that none
of them is idle, and none has two. Else it has as many as there should be workers, so that the same numbers come out
whoever was lost.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Lease:
    """What one worker is to compute.

    `run` is the start of the servers that leases it: what is pushed to another one is refused. `version`: how many
    updates its parameters must have seen.
    """

    kind: Literal["train", "evaluate", "end"]
    run: str
    step: int = 0
    share: int = 0
    shares: int = 0
    version: int = 0
    epoch: int = 0
    position: int = 0
    """Where in the epoch's samples the step begins."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Opened:
    """A step to be leased, in so many shares at most."""

    step: int
    position: int
    shares: int


@dataclass(slots=True)
class _Work:
    """A step, or an evaluation: its shares that nobody computes, and what was told of those that are done."""

    lease: Lease
    free: list[int]
    done: dict[int, Any] = field(default_factory=dict)


class Leases:
    """Thread-safe. A holder is whatever tells one session of a worker from all others."""

    def __init__(self, run: str, staleness: int, *, elastic: bool = False) -> None:
        """`elastic`: shares are as many as there are workers."""
        self._run, self._staleness, self._elastic = run, staleness, elastic
        self._present: set[Any] = set()
        self._work: deque[_Work] = deque()
        self._coming: Iterator[Lease] = iter(())
        self._held: dict[Any, tuple[_Work, Lease]] = {}
        self._ended = False
        self._changed = threading.Condition()

    def open(self, epoch: int, steps: Sequence[Opened]) -> None:
        """The steps left of an epoch, the first of which is the next to be made."""
        first = steps[0].step
        work = (
            Lease(
                *("train", self._run, one.step, 0, one.shares),
                version=max(first, one.step - self._staleness),
                epoch=epoch,
                position=one.position,
            )
            for one in steps
        )
        self._begin(work)

    def evaluate(self, step: int, shares: int) -> None:
        """The parameters after `step` updates, by so many shares of the validation samples."""
        self._begin(iter([Lease("evaluate", self._run, step, 0, shares, step)]))

    def _begin(self, coming: Iterator[Lease]) -> None:
        with self._changed:
            self._work.clear()
            self._coming = coming
            self._fill()

    def _fill(self) -> None:
        """Steps follow one another: so many of them are near enough to the oldest."""
        for lease in islice(self._coming, self._staleness + 1 - len(self._work)):
            shares = min(lease.shares, max(1, len(self._present))) if self._elastic else lease.shares
            self._work.append(_Work(replace(lease, shares=shares), list(range(shares))))
        self._changed.notify_all()

    def end(self) -> None:
        """There is nothing more to do."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def come(self, holder: Any) -> None:
        """A worker is there, until it is released."""
        with self._changed:
            self._present.add(holder)

    def take(self, holder: Any, patience: float) -> Lease | None:
        """What the holder is to compute next; None where there is nothing within `patience` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._next() is not None, patience)
            if self._ended:
                return Lease("end", self._run)
            work = self._next()
            if work is None:
                return None
            lease = replace(work.lease, share=work.free.pop(0))
            self._held[holder] = (work, lease)
            return lease

    def _next(self) -> _Work | None:
        return next((one for one in self._work if one.free), None)

    def finish(self, holder: Any, told: Any) -> None:
        """The holder has done what it was to compute; of one that was lost meanwhile, another does it again."""
        with self._changed:
            work, lease = self._held.pop(holder, (None, None))
            if work is not None and lease is not None:
                work.done[lease.share] = told
                self._changed.notify_all()

    def release(self, holder: Any) -> Lease | None:
        """The holder is lost; gives what it leaves to another."""
        with self._changed:
            self._present.discard(holder)
            work, lease = self._held.pop(holder, (None, None))
            if work is not None and lease is not None:
                work.free = sorted([*work.free, lease.share])
                self._changed.notify_all()
            return lease

    def told(self, patience: float) -> list[Any] | None:
        """What was told of the oldest work's shares, in their order; None if not all are done in so many seconds."""
        with self._changed:
            oldest = self._work[0]
            if not self._changed.wait_for(lambda: len(oldest.done) == oldest.lease.shares, patience):
                return None
            return [oldest.done[share] for share in range(oldest.lease.shares)]

    def advance(self) -> None:
        """The oldest work is made use of: so much further may the others be."""
        with self._changed:
            self._work.popleft()
            self._fill()
