"""Who of a group is there: the front listens for its ranks, and learns within a moment when one comes or goes."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from muster_worker.serve.batcher import WORTH_A_THREAD
from muster_worker.serve.group.deaths import Deaths
from muster_worker.serve.group.link import BEAT, GONE, Link
from muster_worker.serve.group.shard import Member, Shard
from muster_worker.serve.group.wire import Frame
from muster_worker.serve.supervisor import Death

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from muster_worker.serve.group.layout import GroupConfig
    from muster_worker.serve.group.shard import Task

log = logging.getLogger(__name__)

LOADING = 60.0
"""Seconds of silence after which a rank is given up that loads the model: Python may stand still meanwhile."""

_NAMED = 3
"""So many of those that are missing are named, and the others counted."""


class Front:
    """Computes nothing itself. All that changes, `changed` guards and tells of.

    A rank that goes takes with it what its shard was computing, and whoever waits for that has it computed again.
    """

    def __init__(self, group: GroupConfig, listening: socket.socket, front: Death | None = None) -> None:
        """`front`: how the one ended whose place this one has taken."""
        self._listening = listening
        self.changed = threading.Condition()
        self.shards = [Shard(ranks, group.layout.tensor) for ranks in group.layout.shards]
        self.layout = group.layout
        self._name = group.name
        self._deaths = Deaths(front)
        self._told: Frame | None = None
        self._sha256: str | None = None
        self._seconds = 0.0

    def listen(self) -> None:
        """Takes in whoever comes, from now on."""
        threading.Thread(target=self._accept, daemon=True, name="accepts").start()
        threading.Thread(target=self._watch, daemon=True, name="watches").start()

    def assemble(self, sha256: str, *, whole: bool) -> float:
        """Waits until the group is `whole`, or at least can compute; gives the seconds that one sample takes.

        `sha256`: what the checksum of every rank's model must be.
        """
        with self.changed:
            self._sha256 = sha256
            for member in self._members():
                if member.loaded:
                    self._judge(member)  # it was here before that was known
            self.wait(lambda: self.missing is None if whole else self.able)
            return max(self._seconds, WORTH_A_THREAD)

    @property
    def missing(self) -> str | None:
        """Who is, and why; None when the group is whole."""
        with self.changed:
            faults = self._faults() | {one.rank: "leaves" for one in self._members() if one.leaving}
        if not faults:
            return None
        pod_of = self.layout.pod_of
        named = [f"rank {rank} (pod {pod_of(rank)}) {faults[rank]}" for rank in sorted(faults)[:_NAMED]]
        more = len(faults) - len(named)
        return ", ".join(named) + (f", and {more} more" if more else "")

    @property
    def absent(self) -> list[int]:
        """The ranks with which nothing can be computed."""
        with self.changed:
            return sorted(self._faults())

    @property
    def able(self) -> bool:
        """Whether there is anybody to compute."""
        with self.changed:
            return any(shard.able for shard in self.shards)

    def last_death(self) -> dict[str, Any] | None:
        with self.changed:
            return self._deaths.last()

    def wait(self, condition: Callable[[], bool], deadline: float = float("inf")) -> bool:
        """Until it is met, or the time of `time.monotonic` has come; gives whether it is. Takes `changed`, held."""
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.changed.wait(min(left, BEAT))  # silence is no change that anybody would tell of
        return True

    def stands_still(self, task: Task) -> bool:
        """Whether its shard does, and another does not. Alone, it is waited for: it may go on."""
        return any(one.able for one in self.shards) and any(one.has(task) and not one.able for one in self.shards)

    def _faults(self) -> dict[int, str]:
        faults = dict.fromkeys((rank for shard in self.shards for rank in shard.ranks), "is not there")
        for member in self._members():
            if member.fault is None:
                del faults[member.rank]
            else:
                faults[member.rank] = member.fault
        return faults

    def _members(self) -> list[Member]:
        return [member for shard in self.shards for member in shard.members.values()]

    def _accept(self) -> None:
        while True:
            try:
                self.receive(self._listening.accept()[0])
            except OSError as error:
                log.warning("nobody can be taken in: %s", error)
                time.sleep(BEAT)

    def receive(self, connection: socket.socket) -> None:
        """Whoever has come by it."""
        _Visit(self, connection)

    def _watch(self) -> None:
        """Ranks that fall silent, and that are heard again, make themselves known by nothing else."""
        while True:
            self._look()
            time.sleep(BEAT)

    def _look(self) -> None:
        """Tells the ranks what has changed: their pods answer for the whole group."""
        with self.changed:
            for shard in self.shards:
                shard.look()
            told = Frame("group", {"missing": self.missing, "absent": self.absent})
            if told.words["missing"] is None:
                self._deaths.overcome()
            if told != self._told:
                self._told = told
                for member in self._members():
                    member.link.send(told)
            self.changed.notify_all()

    def join(self, link: Link, words: dict[str, Any]) -> Member | None:
        """The rank that has come; None where it belongs to another group, as it is told then."""
        error = self._refusal(words)
        if error is not None:
            log.warning("a process is refused: %s", error)
            link.send(Frame("refused", {"error": error}))
            link.finish()
            return None
        member = Member(words["rank"], link, words["meeting"])
        with self.changed:
            shard = self._shard_of(member)
            before = shard.members.get(member.rank)
            if before is not None:
                self.leave(before)
            shard.take_in(member)
            if words["death"] is not None:
                self._deaths.told(member.rank, Death(**words["death"]))
            self._told = None
        self._look()
        return member

    def _refusal(self, words: dict[str, Any]) -> str | None:
        name, processes = self._name, self.layout.processes
        if words["group"] != name:
            return f"--group: found {words['group']}, wanted {name}, whose leader this is"
        if words["processes"] != processes or not 0 <= words["rank"] < processes:
            return f"rank {words['rank']} of {words['processes']} processes: group {name} has {processes}"
        return None

    def loaded(self, member: Member, sha256: str, seconds: float) -> None:
        """It can compute; `seconds` is what one sample takes."""
        with self.changed:
            member.sha256, self._seconds = sha256, seconds
            self._judge(member)
        self._look()

    def _judge(self, member: Member) -> None:
        """Nothing is computed by one that has loaded another model than the leader has, as far as that is known."""
        member.loaded = self._sha256 in (None, member.sha256)
        if not member.loaded:
            error = f"spec.model.sha256: found {member.sha256}, wanted {self._sha256}, which its leader has"
            member.link.send(Frame("refused", {"error": error}))
            member.link.finish()

    def leaves(self, member: Member) -> None:
        """It has been told to, and goes on until the front does."""
        with self.changed:
            member.leaving = True
        self._look()

    def answered(self, member: Member, frame: Frame) -> None:
        with self.changed:
            shard = self._shard_of(member)
            if shard.members.get(member.rank) is member:
                shard.answered(member.rank, frame)
            self.changed.notify_all()

    def broken(self, member: Member) -> None:
        """It could not reach the others of its shard."""
        with self.changed:
            shard = self._shard_of(member)
            if shard.members.get(member.rank) is member:
                shard.close()
        self._look()

    def leave(self, member: Member) -> None:
        """It has gone."""
        with self.changed:
            shard = self._shard_of(member)
            if shard.members.get(member.rank) is not member:
                return
            shard.close()  # the others cannot go on without it
            if member.loaded and not member.leaving:
                self._deaths.saw(member.rank)
        self._look()

    def _shard_of(self, member: Member) -> Shard:
        return self.shards[member.rank // self.layout.shard_size]


class _Visit:
    """A connection from its beginning to its end, whoever it is that has come."""

    def __init__(self, front: Front, connection: socket.socket) -> None:
        self._front = front
        self._member: Member | None = None
        self._link = Link(connection, self._hear, self._ended)
        self._link.start(LOADING)

    def _hear(self, frame: Frame) -> None:
        front, member = self._front, self._member
        if member is None:
            if frame.kind == "join":
                self._member = front.join(self._link, frame.words)
            return
        match frame.kind:
            case "answer":
                front.answered(member, frame)
            case "loaded":
                self._link.give_up_after(GONE)
                front.loaded(member, **frame.words)
            case "broken":
                front.broken(member)
            case "leaving":
                front.leaves(member)

    def _ended(self) -> None:
        if self._member is not None:
            self._front.leave(self._member)
