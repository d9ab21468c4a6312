"""What the servers in simulated pods would say: they are well, and nobody asks them anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.serving.runtimes.torch import HTTP_PORT
from tests.bench.deployments.resources import SIZE

if TYPE_CHECKING:
    from tests.bench.seen import Pod, Seen

PORT = HTTP_PORT


def state(_pod: Pod, _seen: Seen) -> dict[str, Any]:
    """The document of muster_worker.serve.service."""
    return {
        "ready": True,
        "reason": None,
        "model": {"version": "0", "sha256": "0"},
        "requestsPerSecond": 0.0,
        "errorRate": 0.0,
        "latencyP50": None,
        "latencyP99": None,
        "death": None,
        "group": {"processes": SIZE, "absent": []},
    }
