"""Who is in the group: a state machine without clock, network or threads.

Invariants, whatever is said in whatever order:

1. A round has exactly one member for each rank 0 … replicas-1, all of them heard from a moment ago; of an elastic
   job, one for each pod that is there, and never fewer than the job allows.
2. A member that was superseded (its rank was taken by one with a higher attempt, or by a later process of the
   same attempt) is refused from then on: a zombie never comes back.
3. A round that broke is never entered again; the next one has another id.
4. Once every rank's newest member keeps asking, a round forms, after the back-off at the latest.
5. Of the parts that an elastic group is torn into, at most one goes on (`_weight`).

Times are seconds of any one clock that does not run backwards; each input carries its own `now`.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from muster_worker.agent.protocol import (
    Broken,
    Elsewhere,
    Failure,
    Finished,
    Formed,
    Healthy,
    Refused,
    Round,
    Wait,
)
from muster_worker.agent.rounds import (
    FIRST_BACKOFF,
    GATHER,
    LONGEST_BACKOFF,
    NO_FAULT,
    PATIENCE,
    PATIENCE_FOR_THE_CAUSE,
    PROGRESS_WITHOUT_REPORTS,
    RECORDS_KEPT,
    SILENCE,
    STARTING_TAKES,
    Break,
    BreakKind,
    Policy,
    Restart,
    Seat,
)
from muster_worker.agent.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from muster_worker.agent.protocol import Answer, Join, Member
    from muster_worker.agent.workers import WorkerSeat


class Coordinator:
    def __init__(self, run_id: str, replicas: int, name: str, policy: Policy | None = None) -> None:
        """`name` makes this coordinator's rounds differ from those of the one before it."""
        self._run_id = run_id
        self._replicas = replicas
        self._policy = policy or Policy()
        self._name = name
        self._seats: dict[int, Seat] = {}
        self._workers = Workers(range(replicas, replicas + self._policy.workers))
        self._fences: dict[int, int] = {}
        self._superseded: set[str] = set()
        self._departed: set[str] = set()
        self._gone: frozenset[str] = frozenset()
        self._word = ""
        self._asked_at = float("-inf")
        self._entrusted = False
        self.given_up = False
        """Whether it sends its members to the pod with rank 0."""
        self._wanted = (0, replicas)
        self._first_join_at: float | None = None
        self._newcomer_at: float | None = None
        self._experienced = False
        self._rounds = 0
        self._known_attempt = 0
        self._formed_at = 0.0
        self._reported_at = 0.0
        self._failures: list[Failure] = []
        self._furthest_step = -1
        self._step = -1
        self._progressed = False
        self._barren = 0
        self._not_before = 0.0
        self._ticked_at: float | None = None
        self.round: Round | None = None
        self.broken: Break | None = None
        self.finished: Finished | None = None
        self.restarts: list[Restart] = []
        self.reports_steps = False
        """Whether the ranks have ever told a step."""
        self.version = 0
        """Grows whenever an answer to anybody may have changed."""

    @classmethod
    def in_place_of_the_lost(
        cls, run_id: str, replicas: int, name: str, policy: Policy, *, last: Round, now: float
    ) -> Coordinator:
        """One for the members of a round whose first member hosted the coordinator and is lost."""
        new = cls(run_id, replicas, name, policy)
        lost, *others = last.members
        new._known_attempt = last.attempt
        new._fences = {member.rank: member.attempt for member in last.members}
        # They all miss the coordinator at about the same time: who does not come soon was lost with it.
        new._seats = {member.rank: Seat(member, now - SILENCE / 2) for member in others}
        new._experienced, new._first_join_at = True, now
        new._failures = [_silent(last, lost)]
        new.round, new.broken = last, Break(BreakKind.SILENCE, new._failures[0].message, now, now)
        return new

    # -- what members say ----------------------------------------------------------------------------------

    def join(self, now: float, join: Join) -> Answer:
        refusal = self._refusal(join) or (Elsewhere() if self.given_up else None)
        if refusal is not None:
            return refusal
        member = join.member
        self._learn(now, join)
        if member.rank in self._workers:
            return self._join_as_worker(now, join)
        if self._first_join_at is None:
            self._first_join_at = now
        seat = self._seat(now, member)
        seat.heard_at = now
        if self.finished is not None:
            seat.told_the_end = True
            return self.finished
        if self._in_running_round(member.id):
            if self.round is not None and join.left != self.round.id:
                return Formed(self.round)  # its first request's answer got lost on the way
            self._note_failures(now, join.failures)
            if self.running:
                self._lose(now, member, BreakKind.REJOINED)
        elif self.round is not None and join.left == self.round.id:
            self._note_failures(now, join.failures)
        seat.member = member
        if not seat.waiting:
            seat.waiting = True
            self.version += 1
        self._form(now)
        return self.answer_to_join(member.id, join.left)

    def answer_to_join(self, member_id: str, left: str | None) -> Answer:
        """The present answer to a join that was made before; changes nothing but what it tells."""
        if member_id in self._superseded:
            return Refused("a newer pod has taken this rank")
        if self.given_up:
            return Elsewhere()
        if self.finished is not None:
            self._tell_the_end(member_id)
            return self.finished
        worker = self._workers.seat_of(member_id)
        if worker is not None:
            return self._answer_to_worker(worker)
        if self.round is not None and self._in_running_round(member_id) and self.round.id != left:
            return Formed(self.round)
        return Wait(tuple(rank for rank in range(self._wanted[1]) if not self._is_waiting(rank)))

    def beat(
        self, now: float, member_id: str, round_id: str, *, done: bool = False, stopped: tuple[int, ...] = ()
    ) -> Answer:
        """A member lives and is in this round.

        `done`: all of its ranks have ended well. `stopped`: those of its ranks that a signal has stopped.
        """
        worker = self._workers.seat_of(member_id)
        if worker is not None:
            self._workers.beat(now, worker)
        seat = self._seat_of(member_id) or worker
        if seat is not None:
            seat.heard_at = now
            seat.stopped = stopped
            if done and not seat.done and self._is_running(round_id):
                seat.done = True
                if self._all_is_done():
                    self._finish(Finished(0))
        return self.answer_to_beat(now, member_id, round_id)

    def answer_to_beat(self, now: float, member_id: str, round_id: str) -> Answer:
        if member_id in self._superseded:
            return Refused("a newer pod has taken this rank")
        if self.finished is not None:
            self._tell_the_end(member_id)
            return self.finished
        worker = self._workers.seat_of(member_id)
        if worker is not None:
            return Broken("the ranks made no progress", hung=True) if worker.hung else Healthy()
        if self._is_running(round_id) and self._in_running_round(member_id):
            return Healthy()
        if self.broken is not None and self.round is not None and self.round.id == round_id:
            kind = self.broken.kind
            patience = max(0.0, self.broken.patience_ends - now)
            hung, leave = kind is BreakKind.HANG, kind is BreakKind.GROWN
            return Broken(self.broken.reason, patience, hung=hung, leave=leave)
        return Broken("the round is over")

    def fail(self, now: float, member_id: str, round_id: str, failures: Sequence[Failure]) -> None:
        """Ranks of a member have ended that should not have."""
        worker = self._workers.seat_of(member_id)
        if worker is not None:
            self._note_failures_of_worker(now, worker, tuple(failures))
            return
        if self.round is None or self.round.id != round_id or self._seat_of(member_id) is None:
            return
        self._note_failures(now, failures)

    def leave(self, now: float, member_id: str, round_id: str, *, reform: bool = False) -> None:
        """A member goes away in good order, or (`reform`) its ranks have asked for a new round."""
        worker = self._workers.seat_of(member_id)
        if worker is not None and not reform:
            self._workers.leave(worker)
        seat = self._seat_of(member_id)
        if seat is None:
            return
        was_in_it = self._is_running(round_id) and self._in_running_round(member_id)
        if not reform:
            seat.waiting = False
            if self._elastic:
                self._departed.add(member_id)
                del self._seats[seat.member.rank]
        if not was_in_it:
            return
        if reform:
            self._break(now, BreakKind.REFORM, f"the ranks of {seat.member.pod} saved their state to form anew")
        else:
            self._break(now, BreakKind.LEFT, f"{seat.member.pod} left")

    def reported(self, now: float) -> None:
        """The ranks have told something, whatever it is: they live."""
        self._reported_at = now

    def step(self, now: float, step: int, resumed_from: int | None) -> None:
        """The ranks have made this step."""
        self.reports_steps = True
        if self.restarts and self.restarts[-1].recovery_seconds is None and self.broken is None:
            last = self.restarts[-1]
            lost = None if resumed_from is None or self._step < 0 else max(0, self._step - resumed_from)
            self.restarts[-1] = replace(last, recovery_seconds=now - last.at, steps_lost=lost)
        self._step = step
        if step > self._furthest_step:
            self._furthest_step = step
            self._progressed = True
            self._barren = 0

    def ranks_started(self, now: float) -> None:
        """The ranks of the pod with rank 0 run. Of ranks that never report a step, nothing more will be known."""
        if self.restarts and self.restarts[-1].recovery_seconds is None and not self.reports_steps:
            self.restarts[-1] = replace(self.restarts[-1], recovery_seconds=now - self.restarts[-1].at)

    def tick(self, now: float) -> None:
        """Time has passed. Called several times a second."""
        if self._ticked_at is not None and now - self._ticked_at > 1.0:
            # This very process was held up: what the members said meanwhile is still unread.
            slept = now - self._ticked_at
            for seat in (*self._seats.values(), *self._workers):
                seat.heard_at = min(now, seat.heard_at + slept)  # some may have been read before this
            self._reported_at = min(now, self._reported_at + slept)
        self._ticked_at = now
        for seat in self._seats.values():
            if now - seat.heard_at <= SILENCE:
                continue
            if seat.waiting:
                seat.waiting = False
                self.version += 1
            if self._in_running_round(seat.member.id):
                self._lose(now, seat.member, BreakKind.SILENCE)
        if self._workers.tick(now):
            self.version += 1
        self._watch_for_hangs(now)
        self._let_in(now)
        self._form(now)

    # -- what others say -----------------------------------------------------------------------------------

    def hear(self, now: float, word: str | None, gone: Collection[str]) -> None:
        """The operator knows that these pods are no more. With the word that is asked for, this part may go on."""
        self._gone = frozenset(gone)
        if word is not None and word == self.asks_for(now):
            self._entrusted = True

    def give_up(self, now: float, reason: str) -> None:
        """From now on it sends its members to the pod with rank 0. The ranks have time to save what they hold."""
        self.given_up = True
        self._break(now, BreakKind.GROWN, reason)
        self.version += 1

    # -- what there is to tell -----------------------------------------------------------------------------

    @property
    def attempt(self) -> int:
        return self.round.attempt if self.round is not None else self._known_attempt

    @property
    def running(self) -> bool:
        return self.round is not None and self.broken is None and self.finished is None

    def asks_for(self, now: float) -> str | None:
        """The word that only the operator can give; None while none is wanted.

        It begins with the round of whose members this is a part, and holds for `SILENCE`: one that comes later was on
        its way while others may have been given it.
        """
        return self._word if now - self._asked_at <= SILENCE else None

    @property
    def primary_failure(self) -> Failure | None:
        """The failure that broke the present round, or the best guess so far."""
        return min(self._failures, key=lambda failure: failure.secondary, default=None)

    def seats(self, now: float) -> list[tuple[Member, float]]:
        """Every member of the running round, else everyone who is known, with its silence in seconds, by rank."""
        seats = [seat for _, seat in sorted(self._seats.items())]
        if self.running:
            seats = [seat for seat in seats if self._in_running_round(seat.member.id)]
        seats += self._workers
        return [(seat.member, max(0.0, now - seat.heard_at)) for seat in seats]

    def everybody_knows_the_end(self, now: float) -> bool:
        """True once every member has been told the end, or is silent."""
        seats = (*self._seats.values(), *self._workers)
        return all(seat.told_the_end or now - seat.heard_at > SILENCE for seat in seats)

    # -- workers of parameter servers ----------------------------------------------------------------------

    def _join_as_worker(self, now: float, join: Join) -> Answer:
        seat, before = self._workers.join(now, join)
        if before is not None:
            self._superseded.add(before.id)
            self.version += 1
        self._note_failures_of_worker(now, seat, join.failures)
        if self.running:
            self._count(self._known_attempt)  # its pod may be one that the operator made for a lost one
        return self.answer_to_join(seat.member.id, None)

    def _answer_to_worker(self, seat: WorkerSeat) -> Answer:
        if self.running and self.round is not None and not seat.held_back:
            return Formed(self.round)
        return Wait(tuple(rank for rank in range(self._replicas) if not self._is_waiting(rank)))

    def _note_failures_of_worker(self, now: float, seat: WorkerSeat, failures: tuple[Failure, ...]) -> None:
        """It is started again by itself, which counts as a restart: the others go on, and no step is lost."""
        failure = self._workers.fail(now, seat, failures)
        if failure is None or self.finished is not None:
            return
        if failure.permanent and not failure.secondary:
            self._finish(Finished(failure.exit_code or 1, failure.message))
            return
        restart = Restart(self.attempt, failure, now, recovery_seconds=0.0, steps_lost=0)
        self.restarts = [*self.restarts, restart][-RECORDS_KEPT:]
        self._count(self.attempt + 1)

    def _count(self, attempt: int) -> None:
        self._known_attempt = max(attempt, self._known_attempt)
        if self.round is not None:
            self.round = replace(self.round, attempt=max(attempt, self.round.attempt))

    # -- inside --------------------------------------------------------------------------------------------

    def _refusal(self, join: Join) -> Refused | None:
        member = join.member
        if join.run_id != self._run_id:
            return Refused(f"run id {join.run_id} is not this job's, {self._run_id}")
        most = self._policy.most or self._replicas + self._policy.workers
        if not 0 <= member.rank < most:
            return Refused(f"rank {member.rank} is not one of 0 … {most - 1}")
        fence = self._fences.get(member.rank, 0)
        if member.attempt < fence or member.id in self._superseded:
            return Refused(
                f"rank {member.rank} was taken by a pod of attempt {fence}; {member.pod} is of {member.attempt}"
            )
        return None

    def _learn(self, now: float, join: Join) -> None:
        for rank, attempt in (*join.fences, (join.member.rank, join.member.attempt)):
            self._fences[rank] = max(attempt, self._fences.get(rank, 0))
        self._known_attempt = max(self._known_attempt, join.attempt, join.member.attempt)
        self._experienced |= join.left is not None
        if self._elastic and self.round is not None and not self.running and join.attempt > self.round.attempt:
            # The others have gone on without the members here: what broke this round is no longer of interest.
            self.round = self.broken = None
            self._failures = []
            self._first_join_at = self._not_before = now
        if self._elastic and join.replicas:
            self._wanted = max(self._wanted, (join.member.attempt, join.replicas))
        for rank, seat in list(self._seats.items()):
            if rank != join.member.rank and seat.member.attempt < self._fences.get(rank, 0):
                self._supersede(now, seat.member, f"rank {rank} has a newer pod than {seat.member.pod}")

    def _supersede(self, now: float, member: Member, reason: str) -> None:
        if self._in_running_round(member.id):
            self._break(now, BreakKind.REPLACED, reason)
        self._superseded.add(member.id)
        self.version += 1

    def _seat(self, now: float, member: Member) -> Seat:
        seat = self._seats.get(member.rank)
        if seat is not None and seat.member.id == member.id:
            return seat
        if seat is not None:
            self._supersede(now, seat.member, f"{member.pod} has taken the place of {seat.member.pod}")
        seat = self._seats[member.rank] = Seat(member, now)
        return seat

    def _seat_of(self, member_id: str) -> Seat | None:
        return next((seat for seat in self._seats.values() if seat.member.id == member_id), None)

    def _is_waiting(self, rank: int) -> bool:
        seat = self._seats.get(rank)
        return seat is not None and seat.waiting and seat.member.id not in self._superseded

    def _is_running(self, round_id: str) -> bool:
        return self.running and self.round is not None and self.round.id == round_id

    def _in_running_round(self, member_id: str) -> bool:
        return self.running and self.round is not None and any(m.id == member_id for m in self.round.members)

    def _note_failures(self, now: float, failures: Sequence[Failure]) -> None:
        known = {failure.rank for failure in self._failures}
        new = [failure for failure in failures if failure.rank not in known]
        if not new or self.finished is not None:
            return
        self._failures.extend(new)
        for failure in new:
            if failure.permanent and not failure.secondary:
                self._finish(Finished(failure.exit_code or 1, failure.message))
                return
        cause = min(self._failures, key=lambda failure: failure.secondary)
        self._break(now, BreakKind.FAILURE, cause.message, PATIENCE_FOR_THE_CAUSE if cause.secondary else 0.0)

    def _lose(self, now: float, member: Member, kind: BreakKind) -> None:
        assert self.round is not None
        failure = _silent(self.round, member)
        self._failures.append(failure)
        self._break(now, kind, failure.message)

    def _watch_for_hangs(self, now: float) -> None:
        limit = self._policy.hang_timeout
        if limit is None or not self.running or not (self._policy.steps_expected or self.reports_steps):
            return
        if self._policy.workers and all(now - seat.heard_at > SILENCE for seat in self._workers):
            self._reported_at = now  # servers without a worker wait for one, which is no hang
        if now - self._reported_at < limit:
            return
        failure = self._hang(f"no progress was reported for {limit:g} s")
        self._failures.append(failure)
        self._workers.hang()
        self._break(now, BreakKind.HANG, failure.message)

    def _hang(self, observed: str) -> Failure:
        """Whom to blame is known only where a rank was stopped; the others all wait for one another."""
        for seat in (*(seat for _, seat in sorted(self._seats.items())), *self._workers):
            for rank in seat.stopped:
                message = f"{observed}: rank {rank} was stopped by a signal"
                return Failure(rank, seat.member.pod, "Hang", None, message)
        return Failure(None, None, "Hang", None, observed)

    def _break(self, now: float, kind: BreakKind, reason: str, patience: float | None = None) -> None:
        if patience is None:
            patience = PATIENCE.get(kind, 0.0)
        if self.broken is not None:
            # What was a guess may be known better now; in no case do the ranks get more time than they were given.
            if self.broken.kind is BreakKind.FAILURE and kind is BreakKind.FAILURE:
                ends = min(self.broken.patience_ends, now + patience)
                self.broken = replace(self.broken, reason=reason, patience_ends=ends)
                self.version += 1
            return
        if self.round is None or self.finished is not None:
            return
        self.broken = Break(kind, reason, now, now + patience)
        self.version += 1
        if kind not in NO_FAULT:
            self._back_off(now)

    def _back_off(self, now: float) -> None:
        held = now - self._formed_at >= PROGRESS_WITHOUT_REPORTS and not self.reports_steps
        if self._progressed or held:
            self._barren = 0
            return
        self._barren += 1
        self._not_before = now + min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self._barren - 1, 10))

    def _form(self, now: float) -> None:
        if self.running or self.finished is not None or self.given_up or now < self._not_before:
            return
        alive = self._alive(now)
        if not all(seat.waiting for seat in alive.values()) or not self._enough(now, len(alive)):
            return
        weight = self._weight(alive)
        if weight == 0 and self.asks_for(now) is None:
            self._ask_for_word(now, self.round)
        if weight < 0 or (weight == 0 and not self._entrusted):
            return
        self._asked_at = float("-inf")
        members = tuple(seat.member for _, seat in sorted(alive.items()))
        self._known_attempt = self._next_attempt(members)
        self._rounds += 1
        self.round = Round(f"{self._name}-{self._rounds}", self._known_attempt, members)
        self.broken = None
        self._failures = []
        self._formed_at = self._reported_at = now
        self._progressed = False
        self._newcomer_at = None
        self._seats = alive
        for seat in self._seats.values():
            seat.waiting = seat.done = False
            seat.stopped = ()
        self.version += 1

    @property
    def _elastic(self) -> bool:
        return self._policy.least is not None

    def _alive(self, now: float) -> dict[int, Seat]:
        """The seats of members that were heard from a moment ago, by rank."""
        return {
            rank: seat
            for rank, seat in self._seats.items()
            if now - seat.heard_at <= SILENCE and seat.member.id not in self._superseded
        }

    def _enough(self, now: float, count: int) -> bool:
        if self._policy.least is None:
            return count == self._replicas
        if count < self._policy.least or self._first_join_at is None:
            return False
        if self.round is not None or count >= self._wanted[1]:
            return True
        # Of the first round here: members that were in one before know that the others are not just starting.
        return now - self._first_join_at >= (SILENCE if self._experienced else STARTING_TAKES)

    def _weight(self, alive: Mapping[int, Seat]) -> int:
        """Above 0: no other part of the last round's members can go on, since more than half of them are here; at 0
        exactly half are, and need the operator's word, which it gives to one part of a round; below 0 fewer.

        Those that left, that were replaced, or of whom the operator knows that they are gone are in no part. The rule
        is dynamic voting: S. Jajodia and D. Mutchler, ACM Transactions on Database Systems 15(2), 1990.
        """
        if not self._elastic or self.round is None:
            return 1
        away = self._superseded | self._departed
        voters = [member for member in self.round.members if member.id not in away and member.pod not in self._gone]
        here = sum(member.rank in alive and alive[member.rank].member.id == member.id for member in voters)
        return 2 * here - len(voters) if voters else 1

    def _ask_for_word(self, now: float, part_of: Round | None) -> None:
        """One that nobody has been asked for before: what was given for an older one is void."""
        assert part_of is not None, "only a part of a round can be half of it"
        self._word, self._asked_at, self._entrusted = f"{part_of.id}/{secrets.token_hex(8)}", now, False

    def _let_in(self, now: float) -> None:
        """Ends a running round for the sake of members that came since, a moment after the first of them."""
        if not self._elastic or not self.running:
            return
        alive = self._alive(now)
        newcomers = [s.member.pod for s in alive.values() if s.waiting and not self._in_running_round(s.member.id)]
        if not newcomers:
            self._newcomer_at = None
            return
        if self._newcomer_at is None:
            self._newcomer_at = now
        if len(alive) >= self._wanted[1] or now - self._newcomer_at >= GATHER:
            self._break(now, BreakKind.GROWN, f"{', '.join(newcomers)} came")

    def _next_attempt(self, members: tuple[Member, ...]) -> int:
        """Restarts inside of pods that were there are counted here; a replaced pod has been counted by the operator."""
        attempt = max(self._known_attempt, *(member.attempt for member in members))
        before = self.round
        if before is None or not self._failures or self.broken is None:
            return attempt
        then, now = ({member.id for member in group} for group in (before.members, members))
        if not (now <= then if self._elastic else now == then):
            return attempt
        cause = self._cause(before, now)
        # Of a member that went silent, nobody knows better than that it was heard so long before it was noticed.
        at = self.broken.at - (SILENCE if self.broken.kind is BreakKind.SILENCE else 0.0)
        self.restarts = [*self.restarts, Restart(before.attempt, cause, at)][-RECORDS_KEPT:]
        return attempt + 1

    def _cause(self, before: Round, now: set[str]) -> Failure:
        """Ranks that died of a peer's end are not to blame where that peer's whole pod is missing."""
        known = min(self._failures, key=lambda failure: failure.secondary)
        missing = next((member for member in before.members if member.id not in now), None)
        return _silent(before, missing) if known.secondary and missing is not None else known

    def _all_is_done(self) -> bool:
        assert self.round is not None
        members = self.round.members
        # The first of an elastic round has the first of its ranks, though the pod with rank 0 is lost.
        decisive = members[:1] if self._policy.rank_0_decides else members
        return all(self._seats[member.rank].done for member in decisive)

    def _finish(self, finished: Finished) -> None:
        self.finished = finished
        self.version += 1

    def _tell_the_end(self, member_id: str) -> None:
        seat = self._seat_of(member_id) or self._workers.seat_of(member_id)
        if seat is not None:
            seat.told_the_end = True


def _silent(of: Round, member: Member) -> Failure:
    """The loss of a member as the failure of its first rank."""
    place = [other.id for other in of.members].index(member.id)
    message = f"{member.pod} did not answer for {SILENCE:g} s"
    return Failure(place * member.processes, member.pod, "Silent", None, message)
