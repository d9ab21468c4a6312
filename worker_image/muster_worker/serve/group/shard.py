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


EXPLAIN = "explain"
"""The kind of a task that is computed on a thread of its own, beside all others."""


class Member:
    """A rank that has come, by one connection."""

    def __init__(self, rank: int, link: Link, meeting: dict[str, Any] | None = None) -> None:
        """`meeting`: where it waits for the others of its shard, if it is the first of several."""
        self.rank = rank
        self.link = link
        self.meeting = meeting
        self.loaded = False
        self.leaving = False

    @property
    def fault(self) -> str | None:
        """Why nothing can be computed with it."""
        if self.link.silent:
            return "does not answer"
        return None if self.loaded else "loads the model"


class Task:
    """A part of a batch, or a step of texts. Neither outputs nor error: a shard computes it, or has `lost` it."""

    def __init__(self, inputs: Sequence[Tensor], kind: str = "compute", words: Mapping[str, Any] | None = None) -> None:
        """`kind`, `words`: of the frame that tells the ranks of it."""
        self.inputs = inputs
        self.kind = kind
        self.words = words or {}
        self.outputs: Sequence[Tensor] | None = None
        self.error: str | None = None
        self.lost = False

    @property
    def settled(self) -> bool:
        return self.outputs is not None or self.error is not None or self.lost


class Shard:
    """Whoever calls holds the front's lock."""

    def __init__(self, ranks: range) -> None:
        self.ranks = ranks
        self.members: dict[int, Member] = {}
        self.life = 0
        """Counts how often others have taken the places of its ranks, and nothing is remembered from before."""

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
        number, task.lost = next(self._numbers), False
        self._tasks[number] = task
        for member in self.members.values():
            member.link.send(Frame(task.kind, {"task": number, **task.words}, task.inputs))

    def answered(self, frame: Frame) -> None:
        task = self._tasks.pop(frame.words["task"], None)
        if task is not None:
            if task.kind != EXPLAIN:
                self._since = time.monotonic()
            task.outputs, task.error = frame.tensors, frame.words.get("error")
        if "error" in frame.words and len(self.ranks) > 1:
            self.close()  # one has failed, and others may wait for it

    def has(self, task: Task) -> bool:
        return task in self._tasks.values()

    def give_up(self, task: Task) -> None:
        """Whatever is answered to it now is of no use to anybody."""
        for number in [number for number, one in self._tasks.items() if one is task]:
            del self._tasks[number]
            for member in self.members.values():
                member.link.send(Frame("forget", {"task": number}))

    def close(self) -> None:
        """Its ranks end and others take their places; nothing of what it computes will come."""
        for member in self.members.values():
            member.link.close()
        self.members.clear()
        self.life += 1
        for task in self._tasks.values():
            task.lost = True
        self._tasks.clear()
