"""The pod's place in the group: all talk with the coordinator, in a thread of its own.

The agent's main thread never waits for the network: it says what it wants (`ask_to_join`, `report`) and looks at
what is known (`round`, `broken`, `ended`). That no answer came for `SILENCE` seconds is seen by the clock, even
while the thread hangs in a name look-up.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from muster_worker.agent.address import has_moved
from muster_worker.agent.client import CoordinatorClient, Unreachable
from muster_worker.agent.protocol import (
    Broken,
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


class Membership:
    def __init__(
        self,
        config: AgentConfig,
        coordinator: tuple[str, int],
        say: Callable[[str], None],
        stopped: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        """`stopped` answers which of this pod's ranks a signal has stopped; it is asked by another thread."""
        self._config = config
        self._stopped = stopped
        self._coordinator = coordinator
        self._say = say
        self._id = uuid.uuid4().hex[:12]
        self._changed = threading.Condition()
        self._join: Join | None = None
        self._round: Round | None = None
        self._left: Round | None = None
        self._broken: tuple[Broken, float] | None = None
        self._ended: Finished | Refused | None = None
        self._done = False
        self._answered_at = time.monotonic()
        self._complained = False
        self._closed = False
        self._client = CoordinatorClient(coordinator)

    def start(self) -> None:
        threading.Thread(target=self._run, name="membership", daemon=True).start()
        if not self._config.hosts_coordinator:
            threading.Thread(target=self._look_out, name="look-out", daemon=True).start()

    # -- what the agent wants ------------------------------------------------------------------------------

    def ask_to_join(self, address: str, port: int, failures: Sequence[Failure]) -> None:
        """Leaves the present round, if any, and asks for the next. `failures` ended the present one."""
        config = self._config
        member = Member(self._id, config.rank, config.pod, config.attempt, address, port, config.processes)
        with self._changed:
            last = self._left = self._round or self._left
            self._round = self._broken = None
            self._done = False
            self._join = Join(
                run_id=config.job,
                member=member,
                left=last.id if last else None,
                attempt=last.attempt if last else 0,
                fences=tuple((other.rank, other.attempt) for other in last.members) if last else (),
                failures=tuple(failures),
                replicas=config.replicas,
            )
            self._changed.notify_all()

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
            if time.monotonic() - self._answered_at > SILENCE:
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
        client = self._client
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._join is not None or self._round is not None)
                if self._closed:
                    return client.close()
                join, present = self._join, self._round
            if join is not None:
                pause = self._try_to_join(client, join)
            else:
                assert present is not None
                pause = self._beat(client, present)
            with self._changed:
                if pause:
                    self._changed.wait(PAUSE)

    def _look_out(self) -> None:
        """Notices that rank 0 has a successor though the old one still answers: its node may have been given up only
        because its kubelet hangs.
        """
        while not self._closed:
            time.sleep(LOOK_OUT_EVERY)
            peer, present = self._client.peer, self._round
            if peer is None or not has_moved(self._coordinator[0], peer[0]):
                continue
            with self._changed:
                if self._client.peer != peer:
                    continue
                self._client.forget()
                if present is not None and self._round is present and self._broken is None:
                    self._broken = (Broken(f"{self._where} is another pod than {peer[0]} now"), time.monotonic())
                    self._changed.notify_all()

    def _try_to_join(self, client: CoordinatorClient, join: Join) -> bool:
        """One request; True when the next is better made a moment later."""
        answer = self._ask(client, "join", join_to_json(join))
        with self._changed:
            if self._join is not join:
                return False
            if isinstance(answer, Formed):
                self._round, self._join, self._broken = answer.round, None, None
                self._answered_at = time.monotonic()
            elif isinstance(answer, (Finished, Refused)):
                self._ended, self._join = answer, None
            self._changed.notify_all()
            return answer is None

    def _beat(self, client: CoordinatorClient, present: Round) -> bool:
        question = {"member": self._id, "round": present.id, "done": self._done, "stopped": list(self._stopped())}
        answer = self._ask(client, "beat", question)
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
        if isinstance(answer, Broken):
            patience = answer.patience
            if self._broken is not None:
                known, heard_at = self._broken
                patience = min(patience, heard_at + known.patience - now)
            self._broken = (replace(answer, patience=patience), now)
        elif isinstance(answer, (Finished, Refused)):
            self._ended = answer
        self._changed.notify_all()

    def _ask(self, client: CoordinatorClient, path: str, document: dict[str, object]) -> Answer | None:
        try:
            answer = answer_from_json(client.post(f"/coordinator/{path}", document, ANSWER_LIMIT))
        except Unreachable as error:
            self._note_unreachable(error)
            return None
        except ProtocolError as error:
            self._note_unreachable(Unreachable(str(error), gone=False))
            return None
        self._complained = False
        return answer

    def _note_unreachable(self, error: Unreachable) -> None:
        with self._changed:
            in_round = self._round is not None and self._ended is None
            if in_round and error.gone and self._broken is None:
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
            client = CoordinatorClient(self._client.peer or self._coordinator)
            with contextlib.suppress(Unreachable):
                client.post(f"/coordinator/{path}", {"member": self._id, "round": present.id, **document}, ANSWER_LIMIT)
            client.close()

        thread = threading.Thread(target=tell, name=f"tell-{path}", daemon=True)
        thread.start()
        return thread

    @property
    def _where(self) -> str:
        return "{}:{}".format(*self._coordinator)
