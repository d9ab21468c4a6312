"""torch's rendezvous by our coordinator: the ranks keep their places whatever happens to the others."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from torch.distributed import HashStore
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousHandler, RendezvousInfo
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo

from muster_worker.agent.address import free_port, own_address
from muster_worker.agent.protocol import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster_worker.agent.config import AgentConfig
    from muster_worker.agent.membership import Membership
    from muster_worker.agent.protocol import Failure, Round

LOOK_EVERY = 0.5


class GroupRendezvous(RendezvousHandler):
    """The group rank is the pod's place among the members of the round: its own rank unless an elastic job goes on
    without some of its pods.

    torch's store for the ranks is made by the process of rank 0, at `port` of its pod's address, which it
    announced when it joined: torch can only share the agent's store where it was built with libuv, and Debian's
    was not.
    """

    def __init__(self, config: AgentConfig, membership: Membership, stopping: Callable[[], bool]) -> None:
        self._config = config
        self._membership = membership
        self._stopping = stopping
        self.failures: list[Failure] = []
        """What ended the present round here; said when joining the next."""

    def get_backend(self) -> str:
        return "muster"

    def next_rendezvous(self) -> RendezvousInfo:
        """Waits for the next round, without limit: whether it is hopeless is for the operator to say.

        Raises `SignalException` once the agent is to stop, `RendezvousClosedError` when the group is done.
        """
        self._membership.ask_to_join(own_address(self._config.coordinator[0]), free_port(), self.failures)
        self.failures = []
        while (found := self._membership.wait_for_round(LOOK_EVERY)) is None:
            self.check_stopping()
            ended = self._membership.ended
            if ended is not None:
                raise RendezvousClosedError(ended.reason if isinstance(ended, Refused) else ended.error)
        return self._accept(found)

    def check_stopping(self) -> None:
        """Raises `SignalException` once the agent is to stop. The signal handler itself raises nothing: it may
        have interrupted the start of a rank.
        """
        if self._stopping():
            raise SignalException("the pod is to stop", signal.SIGTERM)

    def _accept(self, found: Round) -> RendezvousInfo:
        first, config = found.members[0], self._config
        if config.servers:  # the round is the servers': the workers know their ranks without it
            rank, world_size = config.rank, config.replicas
        else:
            rank, world_size = [member.rank for member in found.members].index(config.rank), len(found.members)
        return RendezvousInfo(
            store=HashStore(),  # the agents themselves need none
            rank=rank,
            world_size=world_size,
            bootstrap_store_info=RendezvousStoreInfo(first.address, first.port),
        )

    def is_closed(self) -> bool:
        return self._membership.ended is not None

    def set_closed(self) -> None:
        self._membership.close()

    def num_nodes_waiting(self) -> int:
        return 0 if self._membership.broken() is None else 1

    def get_run_id(self) -> str:
        return self._config.job

    def shutdown(self) -> bool:
        self._membership.close()
        return True
