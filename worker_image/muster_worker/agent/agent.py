"""One agent from start to end: puts the parts together and decides on the exit code."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster_worker.agent import termination
from muster_worker.agent.config import RANK_0, Recipe
from muster_worker.agent.coordinator import Coordinator
from muster_worker.agent.membership import Membership
from muster_worker.agent.output import Output
from muster_worker.agent.protocol import Refused
from muster_worker.agent.ranks import Ranks, ZygoteDied
from muster_worker.agent.report import Progress, ReportReader
from muster_worker.agent.rounds import Policy
from muster_worker.agent.server import AgentServer, CoordinatorDesk
from muster_worker.agent.state import Group, Own, document
from muster_worker.agent.threads import threads_per_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from muster_worker.agent.config import AgentConfig
    from muster_worker.agent.elastic import GroupAgent
    from muster_worker.agent.protocol import Round

TERMINATED = 143
ZOMBIE = 86
"""A newer pod has this one's rank."""
BROKEN_AGENT = 70
KEPT_FOR_OURSELVES = 3.0
"""Seconds of the grace period between the kill of ranks that do not leave and the kill of this process."""
EVERYBODY_HEARS_WITHIN = 5.0
ANSWERS_ARE_SENT_WITHIN = 0.2


@dataclass(slots=True)
class _Stop:
    """Whether the pod is to stop, and when the ranks must have left. Set from a signal handler."""

    deadline: float | None = None

    def __call__(self) -> bool:
        return self.deadline is not None

    def patience(self) -> float:
        return 0.0 if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def run(
    config: AgentConfig, *, hear: Callable[[Mapping[str, Any]], None] | None = None, output: Output | None = None
) -> int:
    """Runs one agent to its end and returns the process's exit code. `hear` gets every line that the ranks report.

    The calling process must have no other thread yet: see `zygote.py`.
    """
    output = output or Output()
    _prepare_environment(config)
    preloading = output.open("agent")
    gc.disable()  # during the imports; see zygote.py

    _prepare_store()
    zygote, channel = Ranks.prepare(config, preloading)
    os.close(preloading)
    gc.freeze()
    gc.enable()
    logging.getLogger("torch.distributed.elastic.agent.server.api").setLevel(logging.ERROR)  # we say it ourselves
    output.start()
    return _Agent(config, output.say, Ranks(config, output, zygote, channel), hear).run()


class _Agent:
    def __init__(
        self,
        config: AgentConfig,
        say: Callable[[str], None],
        ranks: Ranks,
        hear: Callable[[Mapping[str, Any]], None] | None,
    ) -> None:
        self._config = config
        self._say = say
        self._ranks = ranks
        self._hear = hear
        self._stop = _Stop()
        self._started_at = time.monotonic()
        self._starts = 0
        self._ranks_run = False
        self._exit_code: int | None = None
        self._error: str | None = None
        self._progress = Progress()
        self._progress_lock = threading.Lock()
        self._report = ReportReader(config.report, self._take_report)
        self._desk = self._make_desk()
        self._server = AgentServer((config.bind, config.port), self._state, self._metrics, self._desk)
        coordinator = ("127.0.0.1", self._server.port) if config.hosts_coordinator else config.coordinator
        succeeds = config.least_replicas is not None and not config.hosts_coordinator
        self._membership = Membership(config, coordinator, say, ranks.stopped, successor=self if succeeds else None)

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._server.start()
        self._report.start()
        self._membership.start()
        try:
            self._exit_code, self._error = self._supervise()
        finally:
            self._ranks.close()
            self._report.catch_up()
        self._say_good_bye()
        return self._exit_code

    def _supervise(self) -> tuple[int, str | None]:
        """Runs the ranks to the end of the whole group; returns the exit code and what went wrong."""
        from torch.distributed.elastic.multiprocessing import SignalException  # noqa: PLC0415 - see `run`
        from torch.distributed.elastic.rendezvous import RendezvousClosedError  # noqa: PLC0415

        agent = self._make_elastic_agent()
        try:
            agent.run()
        except SignalException:
            return (0 if self._membership.done else TERMINATED), None
        except RendezvousClosedError:
            pass
        except ZygoteDied as error:
            return BROKEN_AGENT, f"the process that ranks are started from has died: {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the pod's last words must say it
            self._say(traceback.format_exc())
            return BROKEN_AGENT, f"the agent itself failed: {type(error).__name__}: {error}"
        ended = self._membership.ended
        if isinstance(ended, Refused):
            return ZOMBIE, f"{self._config.pod} is not wanted any more: {ended.reason}"
        if ended is not None:
            return ended.exit_code, ended.error
        if agent.permanent is not None:
            return agent.permanent.exit_code or 1, agent.permanent.message
        return BROKEN_AGENT, "the elastic agent ended without a result"

    def _make_elastic_agent(self) -> GroupAgent:
        from muster_worker.agent.elastic import GroupAgent, Moments  # noqa: PLC0415 - imports torch; see `run`
        from muster_worker.agent.rendezvous import GroupRendezvous  # noqa: PLC0415

        rendezvous = GroupRendezvous(self._config, self._membership, self._stop)
        return GroupAgent(
            self._config,
            rendezvous,
            self._membership,
            self._ranks,
            Moments(self._before_start, self._after_start, self._after_stop),
            patience=self._stop.patience,
            say=self._say,
        )

    def _make_desk(self) -> CoordinatorDesk | None:
        config = self._config
        if not config.hosts_coordinator:
            return None
        return CoordinatorDesk(Coordinator(config.job, config.members, self._name_of_a_coordinator(), self._policy()))

    def _policy(self) -> Policy:
        config = self._config
        return Policy(
            rank_0_decides=config.success_policy == RANK_0,
            hang_timeout=config.hang_timeout,
            steps_expected=isinstance(config.workload, Recipe),
            least=config.least_replicas,
            most=config.most_replicas,
            workers=config.replicas - config.members,
        )

    def _name_of_a_coordinator(self) -> str:
        return f"{self._config.attempt}.{os.urandom(3).hex()}"

    # -- in the place of rank 0 (membership.Successor) -----------------------------------------------------

    def take_over(self, last: Round) -> tuple[str, int]:
        self._say(f"{last.members[0].pod} is lost: this pod coordinates the group until it is back or has a successor")
        before, name, config = self._desk, self._name_of_a_coordinator(), self._config
        coordinator = Coordinator.in_place_of_the_lost(
            config.job, config.replicas, name, self._policy(), last=last, now=time.monotonic()
        )
        self._desk = self._server.desk = CoordinatorDesk(coordinator)
        if before is not None:
            before.close()
        return "127.0.0.1", self._server.port

    def give_up(self, reason: str) -> None:
        desk = self._coordinates
        if desk is not None:
            self._say(f"{reason}: it coordinates the group again")
            desk.consult(lambda group, now: group.give_up(now, reason))

    @property
    def _coordinates(self) -> CoordinatorDesk | None:
        desk = self._desk
        return None if desk is None or desk.consult(lambda group, _: group.given_up) else desk

    # -- the end -------------------------------------------------------------------------------------------

    def _say_good_bye(self) -> None:
        if self._error:
            self._say(f"ended with exit code {self._exit_code}: {self._error}")
        if self._stop():
            self._membership.leave()
        elif (desk := self._coordinates) is not None:
            desk.wait_until(lambda group, now: group.everybody_knows_the_end(now), EVERYBODY_HEARS_WITHIN)
            time.sleep(ANSWERS_ARE_SENT_WITHIN)  # by threads that end with this process
        termination.write(self._config.termination_log, self._state())
        self._membership.close()
        self._report.stop()
        self._server.stop()
        if self._desk is not None:
            self._desk.close()

    # -- what happens meanwhile ----------------------------------------------------------------------------

    def _on_signal(self, number: int, _: object) -> None:
        """Forwards it to the ranks at once. A second Ctrl-C lets nobody wait any longer."""
        if self._stop() and number == signal.SIGINT:
            self._stop.deadline = time.monotonic()
            self._ranks.signal(signal.SIGKILL)
        elif not self._stop():
            self._stop.deadline = time.monotonic() + max(0.0, self._config.grace_seconds - KEPT_FOR_OURSELVES)
            self._ranks.signal(signal.SIGTERM)

    def _after_stop(self) -> None:
        """Takes in what the ranks said last. Once the next round has formed, which another thread may hear of first,
        a step counts as that round's.
        """
        self._report.catch_up()
        with self._progress_lock:
            self._progress.restarted()
        self._ranks_run = False

    def _before_start(self) -> None:
        self._starts += 1
        present = self._membership.round
        if present is not None:
            first, pods = present.members[0], len(present.members)
            everybody = "all " if pods == self._config.members else ""
            kind = "parameter server" if self._config.servers else "pod"
            here = f"the {kind} is" if pods == 1 else f"{everybody}{pods} {kind}s are"
            self._say(f"attempt {present.attempt}: {here} here, rank 0 is in {first.pod} at {first.address}")

    def _after_start(self) -> None:
        self._ranks_run = True
        if self._desk is not None:
            self._desk.consult(lambda group, now: group.ranks_started(now))

    def _take_report(self, line: Mapping[str, Any], now: float) -> None:
        with self._progress_lock:
            self._progress.merge(line, now)
            step, resumed = (self._progress.progress.get(key) for key in ("step", "resumedFromStep"))
        if self._desk is not None:
            self._desk.consult(lambda group, moment: group.reported(moment))
            if "step" in line and isinstance(step, int):
                self._desk.consult(lambda group, moment: group.step(moment, step, resumed))
        if self._hear is not None:
            self._hear(line)

    # -- what others ask -----------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        desk = self._coordinates
        group = desk.consult(Group.of) if desk is not None else None
        with self._progress_lock:
            return document(
                self._config,
                self._own(),
                group,
                self._progress,
                recipe=isinstance(self._config.workload, Recipe),
                monotonic_to_epoch=time.time() - time.monotonic(),
            )

    def _own(self) -> Own:
        last = self._membership.last_round
        return Own(
            formed=self._membership.round is not None,
            formed_before=last is not None,
            attempt=last.attempt if last is not None else 0,
            world_size=self._world_size(last) if last is not None else 0,
            ranks_running=self._ranks_run,
            stopping=self._stop(),
            succeeded=self._exit_code == 0,
            failed=self._exit_code not in (None, 0, TERMINATED),
            error=self._error,
        )

    def _world_size(self, of: Round) -> int:
        workers = self._config.replicas - self._config.members if self._config.servers else 0
        return (len(of.members) + workers) * self._config.processes

    def _metrics(self) -> bytes:
        from muster_worker.agent.prometheus import exposition  # noqa: PLC0415 - not needed to start

        return exposition(self._state(), self._ranks.running, max(0, self._starts - 1))


def _prepare_environment(config: AgentConfig) -> None:
    """What must stand before torch is imported: its thread pools are made then, for all ranks forked later."""
    if "OMP_NUM_THREADS" not in os.environ:
        threads = threads_per_rank(config.processes, config.world_size)
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
    config.storage.mkdir(parents=True, exist_ok=True)


def _prepare_store() -> None:
    """Where torch was built without libuv (Debian's), its stores must be told not to ask for it."""
    from torch.distributed import TCPStore  # noqa: PLC0415 - see `run`

    if "USE_LIBUV" in os.environ:
        return
    try:
        TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=True)
    except Exception as error:  # noqa: BLE001 - torch's own types differ from version to version
        if "libuv" in str(error):
            os.environ["USE_LIBUV"] = "0"
