"""torch's elastic agent with our own way to start, watch and stop ranks.

The loop is `SimpleElasticAgent`'s: start, look, restart when ranks failed or the rendezvous says so. What differs
from `LocalElasticAgent`, and why:

- ranks come from a zygote, so that a restart costs no import;
- killed ranks get no 30 s after a SIGTERM that one hanging in a collective never sees;
- what the ranks print goes through pipes, not through files that grow;
- a rank may end with a code that is no failure;
- the group ends together: torch's exit barrier waits on a store for members that may be starting again;
- no name look-ups: torch asks the DNS for its own host name at every event.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.distributed.elastic.agent.server.api import RunResult, SimpleElasticAgent, Worker, WorkerSpec, WorkerState
from torch.distributed.elastic.events import Event
from torch.distributed.elastic.rendezvous import RendezvousClosedError

from muster_worker.agent import failures
from muster_worker.agent.protocol import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed.elastic.agent.server.api import WorkerGroup

    from muster_worker.agent.config import AgentConfig
    from muster_worker.agent.membership import Membership
    from muster_worker.agent.protocol import Failure
    from muster_worker.agent.ranks import Rank, Ranks
    from muster_worker.agent.rendezvous import GroupRendezvous

ROLE = "default"
LOOK_EVERY = 0.05
WITHOUT_LIMIT = 2**31 - 1
"""Restarts: how many a job may have is for the operator to say."""
PEERS_LEAVE_WITHIN = 5.0
"""When one rank of a pod has ended, the pod's others follow within so many seconds or are stopped."""
LAST_LINES_WITHIN = 0.5
RANKS_PRINT_WITHIN = 1.0
"""Where they stand, when they hang."""
COORDINATOR_HEARS_WITHIN = 2.0
"""Before an agent gives up without the coordinator's word that all do."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What to call around each start of the ranks, and once they have ended, before the pod joins the next round."""

    before_start: Callable[[], None]
    after_start: Callable[[], None]
    after_stop: Callable[[], None]


class GroupAgent(SimpleElasticAgent):
    """`patience` says how many seconds the ranks may still take to leave once the pod is to stop."""

    def __init__(
        self,
        config: AgentConfig,
        rendezvous: GroupRendezvous,
        membership: Membership,
        ranks: Ranks,
        moments: Moments,
        patience: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(
            WorkerSpec(
                role=ROLE,
                local_world_size=config.processes,
                rdzv_handler=rendezvous,
                entrypoint="muster-worker",
                max_restarts=WITHOUT_LIMIT,
                monitor_interval=LOOK_EVERY,
            )
        )
        self._config = config
        self._rendezvous_handler = rendezvous
        self._membership = membership
        self._ranks = ranks
        self._moments = moments
        self._patience = patience
        self._say = say
        self.permanent: Failure | None = None
        """The failure after which this agent gives up."""
        self._started_told = True
        self._asked_to_leave = False
        self._reported: set[str] = set()
        self._first_end: float | None = None

    # -- what SimpleElasticAgent calls ---------------------------------------------------------------------

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._reported.clear()
        self._first_end = None
        self._started_told = False
        self._asked_to_leave = False
        self._moments.before_start()
        self._ranks.start(
            {worker.local_rank: self._environment(worker_group, worker) for worker in worker_group.workers}
        )
        return {local_rank: rank.name for local_rank, rank in self._ranks.ranks.items()}

    def _stop_workers(self, worker_group: WorkerGroup) -> None:  # noqa: ARG002 - there is one group
        own = self._rendezvous_handler.failures
        reason = own[0].message if own else self._membership.broken()
        self._say(f"stopping the ranks to form the group anew: {reason or 'they asked for it'}")
        if self._membership.hung:
            self._ranks.dump(RANKS_PRINT_WITHIN)
        self._ranks.stop(signal.SIGKILL, 0.0)
        self._moments.after_stop()

    def _shutdown(self, death_sig: signal.Signals = signal.SIGKILL, timeout: float = 0.0) -> None:  # noqa: ARG002
        """Torch names a signal only when this process got it; the pod's grace period is known better here."""
        if death_sig == signal.SIGKILL:
            self._ranks.stop(signal.SIGKILL, 0.0)
        else:
            self._ranks.stop(signal.SIGTERM, self._patience())

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._rendezvous_handler.check_stopping()
        self._ranks.poll()
        if not self._started_told and self._ranks.running:
            self._started_told = True
            self._moments.after_start()
        if self._membership.ranks_should_leave and not self._asked_to_leave:
            self._asked_to_leave = True
            self._ranks.signal(signal.SIGTERM)
        self._report_ends()
        state = self._judge()
        ranks = [worker.global_rank for worker in worker_group.workers] if state == WorkerState.SUCCEEDED else []
        return RunResult(state=state, return_values=dict.fromkeys(ranks))

    def _assign_worker_ranks(
        self,
        store: Any,  # noqa: ARG002 - every pod has as many ranks: nothing needs to be exchanged
        group_rank: int,
        group_world_size: int,
        spec: WorkerSpec,
    ) -> list[Worker]:
        size = spec.local_world_size
        world = group_world_size * size
        return [
            Worker(local, group_rank * size + local, group_rank * size + local, world, world) for local in range(size)
        ]

    def _exit_barrier(self) -> None:
        """The coordinator has said that all members are done."""

    def _construct_event(self, state: str, source: Any, *_: Any, **__: Any) -> Event:
        return Event(f"torchelastic.worker.status.{state}", source=source, metadata={})

    # -- inside --------------------------------------------------------------------------------------------

    def _report_ends(self) -> None:
        """Tells the coordinator at once of ranks that ended, each once."""
        new = [r for r in self._ranks.ranks.values() if r.status is not None and r.name not in self._reported]
        if not new:
            return
        self._reported.update(rank.name for rank in new)
        if self._first_end is None:
            self._first_end = time.monotonic()
        codes = {rank.name: failures.exit_code(rank.status or 0) for rank in new}
        if any(code in (failures.REFORM, failures.TERMINATED) for code in codes.values()):
            self._membership.reform()
        found = [self._failure(rank) for rank in new if codes[rank.name] not in failures.IN_GOOD_ORDER]
        if found:
            self._rendezvous_handler.failures.extend(found)
            self._membership.report(found)
            self.permanent = next((f for f in found if f.permanent and not f.secondary), self.permanent)

    def _failure(self, rank: Rank) -> Failure:
        assert rank.status is not None
        tail = self._ranks.tail(rank, LAST_LINES_WITHIN if rank.status > 0 else 0.0)
        return failures.explain(
            rank.global_rank, self._config.pod, rank.status, tail, self._config.permanent_exit_codes
        )

    def _judge(self) -> WorkerState:
        ranks = self._ranks.ranks.values()
        ended = self._membership.ended
        if ended is not None:
            if not isinstance(ended, Refused) and ended.exit_code == 0:
                self._ranks.stop(signal.SIGTERM, PEERS_LEAVE_WITHIN)  # where rank 0 decides, others may still run
                return WorkerState.SUCCEEDED
            raise RendezvousClosedError(ended.reason if isinstance(ended, Refused) else ended.error)
        if self._first_end is None or all(rank.status in (None, failures.DONE) for rank in ranks):
            if not self._ranks.alive:
                self._membership.ranks_done()
            return WorkerState.HEALTHY
        waited = time.monotonic() - self._first_end
        if self.permanent is not None:
            if waited < COORDINATOR_HEARS_WITHIN:
                return WorkerState.HEALTHY
            self._remaining_restarts = 0
            return WorkerState.FAILED
        if self._ranks.alive and waited < PEERS_LEAVE_WITHIN and self._membership.broken() is None:
            return WorkerState.HEALTHY
        if any(
            rank.status is not None and failures.exit_code(rank.status) not in failures.IN_GOOD_ORDER for rank in ranks
        ):
            return WorkerState.FAILED
        return WorkerState.UNHEALTHY

    def _environment(self, worker_group: WorkerGroup, worker: Worker) -> dict[str, str]:
        """What torchrun sets, and what configures a torchrun that the ranks themselves may start."""
        config = self._config
        present = self._membership.round
        attempt = present.attempt if present is not None else config.attempt
        master = {"MASTER_ADDR": worker_group.master_addr, "MASTER_PORT": str(worker_group.master_port)}
        environment = {
            **master,
            "LOCAL_RANK": str(worker.local_rank),
            "RANK": str(worker.global_rank),
            "GROUP_RANK": str(worker_group.group_rank),
            "ROLE_RANK": str(worker.role_rank),
            "ROLE_NAME": ROLE,
            "LOCAL_WORLD_SIZE": str(config.processes),
            "WORLD_SIZE": str(worker.world_size),
            "GROUP_WORLD_SIZE": str(worker_group.group_world_size),
            "ROLE_WORLD_SIZE": str(worker.role_world_size),
            "TORCHELASTIC_RESTART_COUNT": str(max(0, attempt - 1)),
            "TORCHELASTIC_MAX_RESTARTS": str(WITHOUT_LIMIT),
            "TORCHELASTIC_RUN_ID": config.job,
            "TORCHELASTIC_USE_AGENT_STORE": "False",
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
            "PET_NNODES": str(worker_group.group_world_size),
            "PET_NPROC_PER_NODE": str(config.processes),
            "PET_NODE_RANK": str(worker_group.group_rank),
            **{f"PET_{name}": value for name, value in master.items()},
            # torch looks up the name of whoever connects to its store, one after the other, just to have said it. With
            # a name server lost, that took 10 s of a recovery; and what is asked again goes to the same lost one.
            "RES_OPTIONS": os.environ.get("RES_OPTIONS", "timeout:1 attempts:1"),
            # gRPC's own resolver knows neither these options nor all that the system's does.
            "GRPC_DNS_RESOLVER": os.environ.get("GRPC_DNS_RESOLVER", "native"),
            "MUSTER_ATTEMPT": str(attempt),
            "MUSTER_REPORT": str(config.report),
            "MUSTER_STORAGE": str(config.storage),
        }
        if config.source is not None:
            inherited = os.environ.get("PYTHONPATH")
            environment["PYTHONPATH"] = f"{config.source}{os.pathsep + inherited if inherited else ''}"
        return environment
