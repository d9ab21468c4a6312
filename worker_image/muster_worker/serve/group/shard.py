"""One shard of a group as its front sees it: the ranks that have come, and what they compute."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from muster_worker.serve.group.wire import Frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from muster_worker.serve.group.link import Link


ALIKE = 5.0
"""Seconds after which ranks that have not failed where another has will not: they wait for it, or have gone on."""

EXPLAIN = "explain"
"""The kind of a task that is computed on a thread of its own, beside all others."""


class Member:
    """A rank that has come, by one connection."""

    def __init__(self, rank: int, link: Link, meeting: dict[str, Any] | None = None) -> None:
        """`meeting`: where it waits for the others of its shard, if it is the first of several."""
        self.rank = rank
        self.link = link
        self.meeting = meeting
        self.sha256: str | None = None
        """Of the model that it has loaded."""

        self.loaded = False
        self.leaving = False

    @property
    def fault(self) -> str | None:
        """Why nothing can be computed with it."""
        if self.link.silent:
            return "does not answer"
        return None if self.loaded else "loads the model"


class Task:
    """A part of a batch, or a step of texts. Neither outputs nor error: a shard computes it, or has `lost` it.

    `died`: whether it was lost by a death, of which it may be the cause.
    """

    def __init__(self, inputs: Sequence[Tensor], kind: str = "compute", words: Mapping[str, Any] | None = None) -> None:
        """`kind`, `words`: of the frame that tells the ranks of it."""
        self.inputs = inputs
        self.kind = kind
        self.words = words or {}
        self.outputs: Sequence[Tensor] | None = None
        self.error: str | None = None
        self.lost = self.died = False

    @property
    def settled(self) -> bool:
        return self.outputs is not None or self.error is not None or self.lost


class _Failure:
    """Of a task: the ranks that have failed with it, and those of them that were told to go on."""

    def __init__(self) -> None:
        self.ranks: set[int] = set()
        self.told: set[int] = set()
        self.since = time.monotonic()

    @property
    def alike(self) -> bool:
        return self.ranks == self.told


class Shard:
    """Whoever calls holds the front's lock.

    A rank that fails with a task goes on once it is told to. Those that divide the same tensors compute the same, and
    wait for each other in between: where all fail, all are at the same place again. So are the stages behind, to which
    it is told in the place of what they wait for, and those before, which have done their part. Where others do not
    fail, nobody knows what they wait for, and all end.
    """

    def __init__(self, ranks: range, tensor: int = 1) -> None:
        """`tensor`: how many of the ranks, which follow each other, divide the same tensors."""
        self.ranks = ranks
        self.members: dict[int, Member] = {}
        self.life = 0
        """Counts how often others have taken the places of its ranks, and nothing is remembered from before."""

        self.died = True
        """Whether it was closed last because somebody died, or else because of what one task has done."""

        self._tensor = tensor
        self._failures: dict[int, _Failure] = {}
        self._tasks: dict[int, Task] = {}
        self._numbers = itertools.count()
        self._since = 0.0

    @property
    def able(self) -> bool:
        """Whether it can compute."""
        return self._all_are_there and all(one.fault is None for one in self.members.values())

    @property
    def _all_are_there(self) -> bool:
        return len(self.members) == len(self.ranks)

    @property
    def busy(self) -> int:
        """Tasks that it has."""
        return len(self._tasks)

    @property
    def computing_for(self) -> float:
        """Seconds since it began what it does now, beside explanations."""
        return time.monotonic() - self._since if self._computes else 0.0

    @property
    def _computes(self) -> bool:
        return any(task.kind != EXPLAIN for task in self._tasks.values())

    def take_in(self, member: Member) -> None:
        """Once all are there, they are told where they meet."""
        self.members[member.rank] = member
        meeting = self.members[self.ranks[0]].meeting if self._all_are_there else None
        if meeting is not None:
            for one in self.members.values():
                one.link.send(Frame("meet", meeting))

    def begin(self, task: Task) -> None:
        if not self._computes:
            self._since = time.monotonic()
        number, task.lost, task.died = next(self._numbers), False, False
        self._tasks[number] = task
        for member in self.members.values():
            member.link.send(Frame(task.kind, {"task": number, **task.words}, task.inputs))

    def answered(self, rank: int, frame: Frame) -> None:
        number = frame.words["task"]
        task = self._tasks.pop(number, None)
        if task is not None:
            if task.kind != EXPLAIN:
                self._since = time.monotonic()
            task.outputs, task.error = frame.tensors, frame.words.get("error")
        if frame.words.get("ends"):
            self.close(died=False)
        elif "error" in frame.words and len(self.ranks) > 1:
            self._failed(number, rank)

    def _failed(self, number: int, rank: int) -> None:
        failure = self._failures.setdefault(number, _Failure())
        failure.ranks.add(rank)
        before_stage = (min(failure.ranks) - self.ranks.start) // self._tensor * self._tensor
        if failure.ranks.issuperset(self.ranks[before_stage:]):
            for one in failure.ranks - failure.told:
                self.members[one].link.send(Frame("go_on", {"task": number}))
            failure.told = set(failure.ranks)

    def look(self) -> None:
        """To be called again and again: ends it where some ranks have failed, and others that should have have not."""
        over = time.monotonic() - ALIKE
        for number, failure in list(self._failures.items()):
            if failure.since > over:
                continue
            if not failure.alike:
                self.close(died=False)
                return
            del self._failures[number]  # by then, no stage before will fail with it too

    def has(self, task: Task) -> bool:
        return task in self._tasks.values()

    def give_up(self, task: Task) -> None:
        """Whatever is answered to it now is of no use to anybody."""
        for number in [number for number, one in self._tasks.items() if one is task]:
            del self._tasks[number]
            for member in self.members.values():
                member.link.send(Frame("forget", {"task": number}))

    def close(self, *, died: bool = True) -> None:
        """Its ranks end and others take their places; nothing of what it computes will come."""
        self.died = died
        self._failures.clear()
        for member in self.members.values():
            member.link.close()
        self.members.clear()
        self.life += 1
        for task in self._tasks.values():
            task.lost, task.died = True, died
        self._tasks.clear()
