"""The pod's place in the group: all talk with the coordinator, in a thread of its own.

The agent's main thread never waits for the network: it says what it wants (`ask_to_join`, `report`) and looks at
what is known (`round`, `broken`, `ended`). That no answer came for `SILENCE` seconds is seen by the clock, even
while the thread hangs in a name look-up.

The coordinator is in the pod with rank 0. Where an elastic group has lost that one, the first of the others takes its
place, and hands it back once rank 0's agent, or that of its successor, answers again.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Protocol

from muster_worker.agent.address import leads_elsewhere
from muster_worker.agent.client import CoordinatorClient, Unreachable
from muster_worker.agent.protocol import (
    Broken,
    Elsewhere,
    Finished,
    Formed,
    Healthy,
    Join,
    Member,
    ProtocolError,
    Refused,
    answer_from_json,
    join_to_json,
)
from muster_worker.agent.rounds import SILENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from muster_worker.agent.config import AgentConfig
    from muster_worker.agent.protocol import Answer, Failure, Round

ANSWER_LIMIT = 2.0
"""Seconds for one answer; the coordinator holds it for half a second."""
LOOK_OUT_EVERY = 5.0
"""Seconds between two look-ups of the coordinator's name, while it answers at the address that it had."""
PAUSE = 0.2
"""Seconds between tries while nothing is to be expected at once."""
LAST_WORD_LIMIT = 1.0
SEARCH_LIMIT = 1.0
"""Seconds for one answer of somebody who may host the coordinator now."""
ASK_AT_HOME_EVERY = 5.0
"""Seconds between two requests to a coordinator that has gone silent, while somebody else may be in its place."""


class Successor(Protocol):
    """Who can host the coordinator in the place of the pod with rank 0. Called by other threads."""

    def take_over(self, last: Round) -> tuple[str, int]:
        """Begins to host it for the members of this round, its first one left out; returns where."""

    def give_up(self, reason: str) -> None:
        """Sends the members back to the pod with rank 0, once their ranks have saved what they hold."""


class Membership:
    def __init__(
        self,
        config: AgentConfig,
        coordinator: tuple[str, int],
        say: Callable[[str], None],
        stopped: Callable[[], Sequence[int]] = tuple,
        successor: Successor | None = None,
    ) -> None:
        """`stopped` answers which of this pod's ranks a signal has stopped; it is asked by another thread.

        `successor` is this pod's agent where it may take rank 0's place.
        """
        self._config = config
        self._stopped = stopped
        self._successor = successor
        self._say = say
        self._id = uuid.uuid4().hex[:12]
        self._changed = threading.Condition()
        self._join: Join | None = None
        self._round: Round | None = None
        self._left: Round | None = None
        self._broken: tuple[Broken, float] | None = None
        self._ended: Finished | Refused | None = None
        self._done = False
        self._answered_at = self._asked_at_home = time.monotonic()
        self._complained = False
        self._closed = False
        self._home = self._client = CoordinatorClient(coordinator)
        """The coordinator's own place, and where it is now."""
        self._hosts = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="membership", daemon=True).start()
        if not self._config.hosts_coordinator:
            threading.Thread(target=self._look_out, name="look-out", daemon=True).start()

    # -- what the agent wants ------------------------------------------------------------------------------

    def ask_to_join(self, address: str, port: int, failures: Sequence[Failure]) -> None:
        """Leaves the present round, if any, and asks for the next. `failures` ended the present one."""
        config = self._config
        self._member = Member(
            self._id, config.rank, config.pod, config.attempt, address, port, config.processes, config.port
        )
        with self._changed:
            last = self._left = self._round or self._left
            self._round = self._broken = None
            self._done = False
            self._join = self._request(last, failures)
            self._changed.notify_all()

    def _request(self, last: Round | None, failures: Sequence[Failure]) -> Join:
        return Join(
            run_id=self._config.job,
            member=self._member,
            left=last.id if last else None,
            attempt=last.attempt if last else 0,
            fences=tuple((other.rank, other.attempt) for other in last.members) if last else (),
            failures=tuple(failures),
            replicas=self._config.replicas,
        )

    def wait_for_round(self, limit: float) -> Round | None:
        """The round this pod is in, when there is one within `limit` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._round is not None or self._ended is not None, limit)
            return self._round

    def report(self, failures: Sequence[Failure]) -> None:
        """Tells why ranks died, at once and in the background; joining tells it again."""
        self._tell("fail", {"failures": [asdict(failure) for failure in failures]})

    def reform(self) -> None:
        """Tells that the ranks have saved their state and want a new round."""
        self._tell("leave", {"reform": True})

    def ranks_done(self) -> None:
        """All ranks of this pod have ended well."""
        with self._changed:
            if self._done:
                return
            self._done = True
        self._tell("beat", {"done": True})

    def leave(self) -> None:
        """Says good-bye; waits for it a moment."""
        thread = self._tell("leave", {"reform": False})
        if thread is not None:
            thread.join(LAST_WORD_LIMIT)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # -- what is known -------------------------------------------------------------------------------------

    @property
    def round(self) -> Round | None:
        return self._round

    @property
    def last_round(self) -> Round | None:
        return self._round or self._left

    @property
    def ended(self) -> Finished | Refused | None:
        """What the coordinator said for good."""
        return self._ended

    def broken(self) -> str | None:
        """Why the round is over and its ranks have had their time; None while it goes on."""
        with self._changed:
            if self._round is None:
                return None
            if self._broken is not None:
                answer, heard_at = self._broken
                return answer.reason if time.monotonic() >= heard_at + answer.patience else None
            if self._silent and not self._config.comes_and_goes:
                return f"the coordinator at {self._where} did not answer for {SILENCE:g} s"
            return None

    @property
    def hung(self) -> bool:
        """Whether the round is over because its ranks made no progress."""
        return self._broken is not None and self._broken[0].hung

    @property
    def ranks_should_leave(self) -> bool:
        """Whether the round is over though nothing is wrong: the ranks are to save and leave."""
        return self._broken is not None and self._broken[0].leave

    @property
    def done(self) -> bool:
        """Whether all ranks of this pod have ended well."""
        return self._done

    # -- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._join is not None or self._round is not None)
                if self._closed:
                    return self._client.close()
                join, present = self._join, self._round
            if join is not None:
                pause = self._try_to_join(join)
            else:
                assert present is not None
                pause = self._beat(present)
            with self._changed:
                if pause:
                    self._changed.wait(PAUSE)

    def _look_out(self) -> None:
        while not self._closed:
            time.sleep(LOOK_OUT_EVERY)
            if self._client is self._home:
                self._look_out_for_a_successor()
            elif self._hosts:
                self._look_out_for_rank_0()

    def _look_out_for_a_successor(self) -> None:
        """Notices that rank 0 has a successor though the old one still answers: its node may have been given up only
        because its kubelet hangs.
        """
        peer, present = self._home.peer, self._round
        if peer is None or not self._has_a_successor(peer):
            return
        with self._changed:
            if self._home.peer != peer:
                return
            self._home.forget()
            stays = self._config.comes_and_goes
            if present is not None and self._round is present and self._broken is None and not stays:
                self._broken = (Broken(f"{self._where} is another pod than {peer[0]} now"), time.monotonic())
                self._changed.notify_all()

    def _has_a_successor(self, peer: tuple[str, int]) -> bool:
        """Only a pod that was made later is one: a name server that comes back with its node leads for a while to the
        pod that was lost with that node, which may even answer.
        """
        elsewhere = leads_elsewhere(self._home.address[0], peer[0])
        known = self._pod_attempt(peer) if elsewhere else None
        if known is None:
            return False
        return any((self._pod_attempt((address, peer[1])) or 0) > known for address in elsewhere)

    def _pod_attempt(self, where: tuple[str, int]) -> int | None:
        return CoordinatorClient(where).pod_attempt(self._config.job, SEARCH_LIMIT)

    def _look_out_for_rank_0(self) -> None:
        """Hands the coordinator back once rank 0's agent, or that of a successor, answers."""
        assert self._successor is not None
        if self._home.is_there(SEARCH_LIMIT):
            self._successor.give_up(f"rank 0 answers at {self._home.address[0]}")

    def _try_to_join(self, join: Join) -> bool:
        """One request; True when the next is better made a moment later."""
        answer = None if self._is_better_sought_elsewhere else self._ask(self._client, "join", join_to_json(join))
        if answer is None:
            answer = self._search(join)
        with self._changed:
            if self._join is not join:
                return False
            if answer is not None:
                self._answered_at = time.monotonic()
            if isinstance(answer, Formed):
                self._round, self._join, self._broken = answer.round, None, None
            elif isinstance(answer, (Finished, Refused)):
                self._ended, self._join = answer, None
            self._changed.notify_all()
            return answer is None

    @property
    def _is_better_sought_elsewhere(self) -> bool:
        """With rank 0's node a name server may be lost: to ask there in vain then takes seconds."""
        at_home = self._client is self._home and self._successor is not None and self._left is not None
        return at_home and self._silent and time.monotonic() - self._asked_at_home < ASK_AT_HOME_EVERY

    def _search(self, join: Join) -> Answer | None:
        """Asks the members before this one, then at home; where none of them lives, takes rank 0's place."""
        missing, last = self._client, self._left
        if self._successor is None or last is None or (missing is self._home and not self._silent):
            return None
        self._client, self._hosts = self._home, False
        before = [member for member in last.members[1:] if member.rank < self._config.rank]
        clients = [CoordinatorClient((member.address, member.agent_port)) for member in before]
        somebody_lives = False
        for client in [*clients, self._home]:
            if client.address == missing.address:
                continue
            answer = self._ask(client, "join", join_to_json(join), SEARCH_LIMIT)
            if answer is not None:
                self._client = client
                return answer
            if client is not self._home:
                somebody_lives |= client.peer is not None
                client.close()
        if self._silent and not somebody_lives:
            self._client, self._hosts = CoordinatorClient(self._successor.take_over(last)), True
        return None

    def _beat(self, present: Round) -> bool:
        question = {"member": self._id, "round": present.id, "done": self._done, "stopped": list(self._stopped())}
        # Not longer than it takes to know that it is lost: then there is somebody else to ask.
        left = self._answered_at + SILENCE - time.monotonic()
        answer = self._ask(self._client, "beat", question, min(ANSWER_LIMIT, max(left, SEARCH_LIMIT)))
        with self._changed:
            if self._round is not present:
                return False
            self._take(answer)
            return not isinstance(answer, Healthy)

    def _take(self, answer: Answer | None) -> None:
        now = time.monotonic()
        if answer is None:
            return
        self._answered_at = now
        if isinstance(answer, Broken) and self._config.comes_and_goes and not answer.hung:
            # Another coordinator, in the place of one that is lost: it is told of a worker whose ranks go on.
            self._join = self._request(self._round, ())
        elif isinstance(answer, Broken):
            patience = answer.patience
            if self._broken is not None:
                known, heard_at = self._broken
                patience = min(patience, heard_at + known.patience - now)
            self._broken = (replace(answer, patience=patience), now)
        elif isinstance(answer, (Finished, Refused)):
            self._ended = answer
        self._changed.notify_all()

    def _ask(
        self, client: CoordinatorClient, path: str, document: dict[str, object], limit: float = ANSWER_LIMIT
    ) -> Answer | None:
        """None where nobody answers, or one that hosts no coordinator."""
        if client is self._home:
            self._asked_at_home = time.monotonic()
        try:
            answer = answer_from_json(client.post(f"/coordinator/{path}", document, limit))
        except Unreachable as error:
            self._note_unreachable(error)
            return None
        except ProtocolError as error:
            self._note_unreachable(Unreachable(str(error), gone=False))
            return None
        if isinstance(answer, Elsewhere):
            self._note_unreachable(Unreachable("it is not there any more", gone=client is self._client))
            return None
        self._complained = False
        return answer

    def _note_unreachable(self, error: Unreachable) -> None:
        with self._changed:
            in_round = self._round is not None and self._ended is None
            if in_round and error.gone and self._broken is None and not self._config.comes_and_goes:
                self._broken = (
                    Broken(f"nothing listens any more at the coordinator's {self._where}"),
                    time.monotonic(),
                )
                self._changed.notify_all()
        if not self._complained and not in_round:
            self._complained = True
            self._say(f"waiting for the coordinator at {self._where}: {error}")

    def _tell(self, path: str, document: dict[str, object]) -> threading.Thread | None:
        """One message beside the thread's own talk, which may be held for half a second."""
        present = self._round
        if present is None:
            return None

        def tell() -> None:
            client = CoordinatorClient(self._client.peer or self._client.address)
            with contextlib.suppress(Unreachable):
                client.post(f"/coordinator/{path}", {"member": self._id, "round": present.id, **document}, ANSWER_LIMIT)
            client.close()

        thread = threading.Thread(target=tell, name=f"tell-{path}", daemon=True)
        thread.start()
        return thread

    @property
    def _silent(self) -> bool:
        return time.monotonic() - self._answered_at > SILENCE

    @property
    def _where(self) -> str:
        return "{}:{}".format(*self._client.address)
