"""What the benchmark has to know of a system that runs jobs: what to create, how that reads, how it is started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from local_cluster.go_builds import GoBuild
    from muster.client import Kind
    from tests.bench.usage import Usage

LEASE_NAMESPACE = "muster-system"
METRICS_PORT = 8088
"""Not one that pods are asked at: the operators answer on all addresses."""


class Told(NamedTuple):
    """What a job's status says. `phase`: "Running" once all of its workers do, "Succeeded"; anything else before.

    `attempt` grows with every restart, where the status tells.
    """

    phase: str
    attempt: int = 0


class Member(NamedTuple):
    """Whose pod it is. `attempt` is higher than that of the pod it succeeds, where that one may still be there."""

    job: str
    rank: int
    attempt: int


@dataclass(frozen=True)
class Meters:
    """Names of the operator's metrics: a gauge that is 1 while it leads, and two histograms, in seconds."""

    leads: str
    queue: str
    reconcile: str


CONTROLLER_RUNTIME = Meters(
    "leader_election_master_status", "workqueue_queue_duration_seconds", "controller_runtime_reconcile_time_seconds"
)


def phase(pod: dict[str, Any]) -> str:
    """Return what has become of it, in Kubernetes' words."""
    return str(pod.get("status", {}).get("phase", "Pending"))


@dataclass(frozen=True)
class System:
    """`build` is what has to be built of it; None: nothing.

    `label` is on every pod, with the job's name. `phase` says what became of a pod. `made` is everything that comes of
    a job, and the job, in the order in which it is fastest removed. `resync` runs the operator until it has compared
    everything for an hour's worth; None where that is not done by the hour. `most` is the number of jobs that it is
    given at most.
    """

    name: str
    jobs: Kind
    label: str
    container: str
    made: Sequence[Kind]
    manifest: Callable[[int], dict[str, Any]]
    told: Callable[[dict[str, Any]], Told]
    member: Callable[[dict[str, str]], Member]
    definitions: Callable[[], list[Path]]
    command: Callable[[], list[str]]
    meters: Meters
    phase: Callable[[dict[str, Any]], str] = phase
    resync: Callable[[int], Awaitable[Usage]] | None = None
    build: GoBuild | None = None
    most: int | None = None

    def number(self, wanted: int) -> int:
        """Return how many jobs it is given where so many are wanted."""
        return wanted if self.most is None else min(wanted, self.most)
