"""One job at one moment, read once for all policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan import conditions
from muster.plan.training import kueue, leadership, servers
from muster.plan.training.members import Member, members, newest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.api import TrainingJob
    from muster.plan.model import Manifest, Observed, Settings, WorkerReport


@dataclass(frozen=True, slots=True)
class View:
    """`recorded` is the status as the resource has it; `workers` has the newest pod of every rank; `named` the other
    resources that the spec names, by kind and name; `reports` what the agents answered, by their pod's UID. `leader` is
    who speaks for the group, `group` what it says. `asked`: it has been asked for that.

    `workload` is the job's place in Kueue's queue, if there is one; `workloads_unknown`: that cannot be said.
    """

    job: TrainingJob
    recorded: Mapping[str, Any]
    members: tuple[Member, ...]
    workers: Mapping[int, Member | None]
    reports: Mapping[str, WorkerReport]
    leader: Member | None
    group: Mapping[str, Any]
    asked: bool
    named: Mapping[tuple[str, str], Manifest]
    settings: Settings
    now: float
    workload: Manifest | None
    workloads_unknown: bool
    flavors: Mapping[str, Manifest]

    @property
    def name(self) -> str:
        return self.job.metadata.name

    @property
    def replicas(self) -> int:
        """How many pods it has: its workers and, before them, parameter servers."""
        return servers.size(self.job)

    @property
    def servers(self) -> int:
        return servers.count(self.job)

    @property
    def gang(self) -> str:
        """Its pods in words."""
        workers = f"{self.job.spec.replicas} workers"
        return f"{self.servers} parameter servers and {workers}" if self.servers else workers

    @property
    def workers_running(self) -> int:
        """How many pods of workers run, servers left out."""
        ranks = self.workers.items()
        return sum(rank >= self.servers and member is not None and member.running for rank, member in ranks)

    def before(self, member: Member) -> Member | None:
        """Return the pod that had the rank before this one, if it is there."""
        earlier = (other for other in self.members if other.rank == member.rank and other.attempt < member.attempt)
        return max(earlier, key=lambda other: other.attempt, default=None)

    @property
    def admitted(self) -> bool:
        """Its pods were made, and the status says so."""
        return conditions.is_true(self.recorded.get("conditions", []), "Admitted")

    @property
    def known_replicas(self) -> int:
        """How many pods the status says that there are to be: its workers, and the servers."""
        return self.servers + int(self.recorded.get("wantedReplicas", self.job.spec.replicas))

    @property
    def recorded_attempt(self) -> int:
        """The attempt that the status speaks of; 0 before the first."""
        return int(self.recorded.get("attempt", 0))

    @property
    def known_attempt(self) -> int:
        """The attempt that the status and the workers know of, who count restarts in place."""
        return max(self.recorded_attempt, int(self.group.get("attempt") or 0))

    @property
    def attempt(self) -> int:
        """The attempt under way, also when its pods were made and its record was not."""
        return max((self.known_attempt, *(member.attempt for member in self.members)))


def view(job: TrainingJob, observed: Observed, settings: Settings, now: float) -> View:
    pods = members(observed.pods, observed.nodes)
    workers = newest(pods, servers.size(job))
    leader = leadership.leader(job, workers, observed.reports)
    return View(
        job=job,
        recorded=observed.resource.get("status") or {},
        members=pods,
        workers=workers,
        reports=observed.reports,
        leader=leader,
        group=_group_state(leader, observed),
        asked=leader is not None and leader.uid in observed.reports,
        named=observed.named,
        settings=settings,
        now=now,
        workload=kueue.workload_of(job, observed.workloads),
        workloads_unknown=observed.workloads is None,
        flavors=observed.flavors,
    )


def _group_state(leader: Member | None, observed: Observed) -> Mapping[str, Any]:
    """Return what its agent says of the whole group: its last words once it ended, else its last answer."""
    if leader is None:
        return {}
    if (leader.succeeded or leader.failed) and leader.last_words:
        return leader.last_words
    report = observed.reports.get(leader.uid)
    return (report.state if report else None) or {}
