"""One deployment at one moment, read once for all policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan.serving import revisions
from muster.plan.serving.groups import Server, servers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.api import ModelDeployment
    from muster.plan.model import Observed, WorkerReport
    from muster.plan.serving.revisions import Revision


@dataclass(frozen=True, slots=True)
class View:
    """`recorded` is the status as the resource has it; `revisions` are those kept, the oldest first, and the target.

    `target` is what the spec asks for, None as long as its model is not there. `current` is the last revision that all
    groups had: what a rollback returns to.
    """

    deployment: ModelDeployment
    recorded: Mapping[str, Any]
    servers: tuple[Server, ...]
    revisions: Mapping[str, Revision]
    target: Revision | None
    current: Revision | None
    reports: Mapping[str, WorkerReport]
    now: float

    @property
    def replicas(self) -> int:
        """How many groups are wanted."""
        return 0 if self.deployment.spec.suspend else self.deployment.spec.replicas

    @property
    def is_rolling(self) -> bool:
        """Whether the spec asks for another revision than the last that all groups had."""
        if self.target is None:
            return False
        return self.current is None or self.current.name != self.target.name

    @property
    def failed(self) -> bool:
        """Whether what the spec asks for has been given up, and did not get well by itself since."""
        return self.target is not None and self.is_rolling and self._revisions.get("failed") == self.target.name

    @property
    def failure(self) -> str | None:
        failure: str | None = self._revisions.get("failure")
        return failure

    @property
    def attempt(self) -> int:
        """How many times a group was made, as far as the status and the pods tell."""
        return max((int(self.recorded.get("attempt", 0)), *(server.attempt for server in self.servers)))

    @property
    def known_replicas(self) -> int:
        """How many groups the status says that were wanted."""
        return int(self.recorded.get("wantedReplicas", 0))

    def is_lost(self, server: Server) -> bool:
        """Whether it will not answer again and nobody told it to leave: it has ended, or its node is given up."""
        ended = server.ended and not server.deleting
        return ended or server.is_lost(self.now, self.deployment.spec.failover.node_lost_seconds)

    def living(self, group: int) -> tuple[Server, ...]:
        """Return the pods of this group that are to stay as far as anybody has said, in the order they were made."""
        ours = (one for one in self.servers if one.group == group)
        return tuple(one for one in ours if not one.deleting and not one.cut_off and not self.is_lost(one))

    @property
    def _revisions(self) -> Mapping[str, Any]:
        return self.recorded.get("revision") or {}


def view(deployment: ModelDeployment, observed: Observed, target: Revision | None, now: float) -> View:
    kept = revisions.known(observed.revisions)
    recorded = observed.resource.get("status") or {}
    current = (recorded.get("revision") or {}).get("current", "")
    return View(
        deployment=deployment,
        recorded=recorded,
        servers=servers(observed, deployment.spec.failover.unreachable_seconds, now),
        revisions=kept if target is None else {**kept, target.name: target},
        target=target,
        current=kept.get(current),
        reports=observed.reports,
        now=now,
    )
