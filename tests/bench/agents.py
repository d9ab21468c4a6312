"""What the agents in simulated pods would say: their group trains once all ranks have a running pod, and its attempt is
that of the newest.

No step is ever reported, as by a script that reports none: what a group that does would add is one status write
every 1 to 10 seconds, by its age.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.training.pods import AGENT_PORT
from tests.bench.jobs import WORKERS

if TYPE_CHECKING:
    from tests.bench.seen import Pod, Seen

PORT = AGENT_PORT


def state(pod: Pod, seen: Seen) -> dict[str, Any]:
    """The document of muster_worker.agent.state."""
    newest = seen.newest((pod.namespace, pod.job))
    running = [one for one in newest.values() if one.phase == "Running"]
    well = sum(one.phase in {"Running", "Succeeded"} for one in newest.values())
    return {
        "job": pod.job,
        "pod": pod.name,
        "rank": pod.rank,
        "podAttempt": pod.attempt,
        "attempt": max(one.attempt for one in running),
        "phase": "Running" if well == WORKERS else "Waiting",
        "worldSize": WORKERS,
        "members": [
            {"rank": one.rank, "pod": one.name, "podAttempt": one.attempt, "silentSeconds": 0.0} for one in running
        ],
        "restarts": [],
        "progress": {},
        "metrics": {},
        "checkpoint": None,
        "model": None,
        "error": None,
    }
