"""What clients, the kubelet and Muster are told by a group: by its front, and by the pods beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster_worker.serve.errors import NotReadyError
from muster_worker.serve.service import Limits, Service

if TYPE_CHECKING:
    from muster_worker.serve.group.front import Front
    from muster_worker.serve.group.layout import GroupConfig
    from muster_worker.serve.metrics import Metrics
    from muster_worker.serve.model import Model
    from muster_worker.serve.supervisor import Death


class FrontService(Service):
    """Ready while the group is whole; once it has been, it answers with whoever is there."""

    def __init__(self, name: str, limits: Limits, metrics: Metrics, front: Front, death: Death | None) -> None:
        super().__init__(name, limits, metrics, death)
        self._front = front
        metrics.watch_group(lambda: front.layout.processes - len(front.absent), front.layout.processes)

    @property
    def why_not_ready(self) -> str | None:
        if self.draining:
            return super().why_not_ready
        return self._front.missing or super().why_not_ready

    @property
    def answers(self) -> bool:
        return self._front.able

    def state(self) -> dict[str, Any]:
        group = {"processes": self._front.layout.processes, "absent": self._front.absent}
        return super().state() | {"group": group, "death": self._front.last_death()}


class MemberService(Service):
    """Of a pod without the front: as ready as the group is, but it answers no inference."""

    def __init__(self, name: str, limits: Limits, metrics: Metrics, group: GroupConfig, rank: int) -> None:
        super().__init__(name, limits, metrics)
        self._group = group
        self._missing: str | None = f"rank {rank} (pod {group.pod}) has not come to its leader"
        self._absent = list(range(group.layout.processes))
        metrics.watch_group(lambda: group.layout.processes - len(self._absent), group.layout.processes)

    def hear(self, missing: str | None, absent: list[int]) -> None:
        """What the front says."""
        self._missing, self._absent = missing, absent

    @property
    def why_not_ready(self) -> str | None:
        return self._missing

    @property
    def model(self) -> Model:
        raise NotReadyError(f"a member of group {self._group.name}: its leader answers")

    def state(self) -> dict[str, Any]:
        return super().state() | {"group": {"processes": self._group.layout.processes, "absent": self._absent}}
