"""Muster, as it is installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from muster.client import PODS, SERVICES
from muster.control.kinds import TRAINING_JOBS
from tests.bench.jobs import REQUESTS, WORKERS, metadata
from tests.bench.place import ROOT
from tests.bench.processes import operator
from tests.bench.systems.system import LEASE_NAMESPACE, METRICS_PORT, Member, Meters, System, Told
from tests.bench.usage import Usage, usage
from tests.bench.waiting import until

if TYPE_CHECKING:
    from tests.bench.processes import Operator

COMPARISONS = 20  # an hour's worth, one every 180 seconds
_RESYNC_SECONDS = 1.0
_RESYNC_LIMIT = 600.0


def manifest(number: int) -> dict[str, Any]:
    return {
        "apiVersion": TRAINING_JOBS.api_version,
        "kind": TRAINING_JOBS.kind,
        "metadata": metadata(number),
        "spec": {
            "replicas": WORKERS,
            "script": {"command": ["train.py", "--epochs", "10"]},
            "resources": {"requests": REQUESTS},
        },
    }


def told(job: dict[str, Any]) -> Told:
    status = job.get("status", {})
    return Told(status.get("phase", "New"), status.get("attempt", 0))


def member(labels: dict[str, str]) -> Member:
    return Member(labels["muster.dev/training-job"], int(labels["muster.dev/rank"]), int(labels["muster.dev/attempt"]))


async def resync(jobs: int) -> Usage:
    """Return what an operator took for an hour's worth of comparisons, its start left out."""
    async with operator(MUSTER, "--resync-seconds", str(_RESYNC_SECONDS), jobs=jobs, idle=False) as running:
        used, compared = usage(running.process.pid), await _comparisons(running)

        async def enough() -> bool:
            return await _comparisons(running) >= compared + COMPARISONS

        await until(f"{COMPARISONS} comparisons", enough, _RESYNC_LIMIT)
        return usage(running.process.pid) - used


async def _comparisons(running: Operator) -> int:
    """How often everything was compared: nodes come last, and in one piece."""
    metrics = await running.metrics()
    labels = frozenset({("verb", "list"), ("resource", "nodes"), ("code", "200")})
    return int(metrics.get(("muster_api_requests_total", labels), 0))


MUSTER = System(
    name="Muster",
    jobs=TRAINING_JOBS,
    label="muster.dev/training-job",
    container="worker",
    # What is owned goes first: it would be the garbage collector's, one object after the other.
    made=(PODS, SERVICES, TRAINING_JOBS),
    manifest=manifest,
    told=told,
    member=member,
    definitions=lambda: sorted((ROOT / "crds").glob("*.yaml")),
    command=lambda: [
        *(sys.executable, "-m", "muster", "run"),
        *("--lease-namespace", LEASE_NAMESPACE, "--http-port", str(METRICS_PORT)),
    ],
    meters=Meters("muster_leader", "muster_queue_latency_seconds", "muster_reconcile_seconds"),
    resync=resync,
)
