"""One deployment at one moment, read once for all policies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan.serving import placement, revisions
from muster.plan.serving.groups import Server, Worker, servers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.api import ModelDeployment
    from muster.plan.model import Admission, Manifest, Observed, WorkerReport
    from muster.plan.serving.revisions import Revision


@dataclass(frozen=True, slots=True)
class View:
    """`recorded` is the status as the resource has it; `revisions` are those kept, the oldest first, and the target.

    `target` is what the spec asks for, None as long as its model is not there. `current` is the last revision that all
    groups had: what a rollback returns to; where none was and no target is known, the last target, if any group has it.
    `routes` holds its HTTPRoute; None: the cluster has no such kind.
    """

    deployment: ModelDeployment
    recorded: Mapping[str, Any]
    servers: tuple[Server, ...]
    revisions: Mapping[str, Revision]
    target: Revision | None
    current: Revision | None
    reports: Mapping[str, WorkerReport]
    admission: Admission | None
    routes: tuple[Manifest, ...] | None
    now: float

    @property
    def replicas(self) -> int:
        """How many groups are wanted."""
        return 0 if self.deployment.spec.suspend else self.deployment.spec.replicas

    @property
    def gateway(self) -> str | None:
        """The Gateway that is to send each revision its share of the requests; None where none is asked for."""
        canary = self.deployment.spec.canary
        return canary.gateway.name if canary is not None and canary.gateway is not None else None

    @property
    def weights(self) -> Mapping[str, int]:
        """The per cent of the requests that go to each revision, as its HTTPRoute has it."""
        prefix = f"{self.deployment.metadata.name}-"
        rules = (rule for route in self.routes or () for rule in route["spec"].get("rules") or ())
        backends = (one for rule in rules for one in rule.get("backendRefs") or ())
        return {one["name"].removeprefix(prefix): one["weight"] for one in backends if one["weight"]}

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
    def made_replicas(self) -> int:
        """How many groups the status says that were made."""
        return int(self.recorded.get("madeReplicas", 0))

    def was_asked(self, server: Server) -> bool:
        """Return whether it has had the time to say how it is, or is of those who never do."""
        revision = self.revisions.get(server.revision)
        return self._report(server) is not None or (revision is not None and not revision.tells)

    def state(self, server: Server) -> Mapping[str, Any] | None:
        """Return what the group last said of itself, if anything; its leader speaks for it."""
        report = self._report(server)
        return report.state if report is not None else None

    def state_now(self, server: Server) -> Mapping[str, Any] | None:
        """Return what it says of itself, if it answers."""
        report = self._report(server)
        return report.state if report is not None and report.silent_since is None else None

    def _report(self, server: Server) -> WorkerReport | None:
        return self.reports.get(server.leader.uid) if server.leader is not None else None

    def deaths_while_serving(self, server: Server) -> int:
        """Return how many processes have died inside of its pods, each with what it was computing."""
        death = (self.state(server) or {}).get("death")
        return int(death["count"]) if death else 0

    def deaths(self, server: Server) -> int:
        """Return how often any process of it was started again, by its parent or by the kubelet."""
        return server.restarts + self.deaths_while_serving(server)

    def is_worn_out(self, server: Server) -> bool:
        """Whether its processes have died more often than may be."""
        return self.deaths(server) > self.deployment.spec.failover.max_group_restarts

    @property
    def denied(self) -> Admission | None:
        """Why there is no room for the next group; None where there is, or nobody has said."""
        return self.admission if self.admission is not None and not self.admission.granted else None

    def lost_pods(self, server: Server) -> tuple[Worker, ...]:
        """Return its pods that will not come back and that nobody told to leave."""
        patience = self.deployment.spec.failover.node_lost_seconds
        return tuple(pod for pod in server.pods if pod.is_lost(self.now, patience))

    def is_lost(self, server: Server) -> bool:
        return bool(self.lost_pods(server))

    def is_torn(self, server: Server) -> bool:
        """Whether some of its pods are gone. Those that were not made yet are not: the status counts it only then."""
        return bool(server.missing) and server.attempt <= int(self.recorded.get("attempt", 0))

    def is_over(self, server: Server) -> bool:
        """Whether it will never answer again: pods of it leave, or are gone, and no pod is made in the place of one."""
        return server.deleting or self.is_lost(server) or self.is_torn(server) or placement.is_stuck(server, self.now)

    def living(self, group: int) -> tuple[Server, ...]:
        """Return what of this group is to stay as far as anybody has said, in the order it was made."""
        return tuple(one for one in self.servers if one.group == group and not one.cut_off and not self.is_over(one))

    @property
    def unheard(self) -> frozenset[int]:
        """The groups of which what took the place of the first is silent as well, as is all of the deployment.

        It is the operator then that is not let through, as by a NetworkPolicy: another server would be as silent.
        """
        if any(self.state_now(one) is not None for one in self.servers):
            return frozenset()
        silent = Counter(one.group for one in self.servers if one.cut_off and not self.is_over(one))
        return frozenset(group for group, servers in silent.items() if servers > 1)

    @property
    def _revisions(self) -> Mapping[str, Any]:
        return self.recorded.get("revision") or {}


def view(deployment: ModelDeployment, observed: Observed, target: Revision | None, now: float) -> View:
    kept = revisions.known(observed.revisions)
    recorded = observed.resource.get("status") or {}
    revision = recorded.get("revision") or {}
    there = servers(observed, deployment.spec.failover.unreachable_seconds, now)
    current = kept.get(revision.get("current", ""))
    if current is None and target is None and any(one.revision == revision.get("target") for one in there):
        current = kept.get(revision["target"])
    return View(
        deployment=deployment,
        recorded=recorded,
        servers=there,
        revisions=kept if target is None else {**kept, target.name: target},
        target=target,
        current=current,
        reports=observed.reports,
        admission=observed.admission,
        routes=observed.routes,
        now=now,
    )
