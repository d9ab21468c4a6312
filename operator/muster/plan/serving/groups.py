"""The groups of a deployment as the policies see them: which there are, who answers, who is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.plan.pods import Pod, condition, read, worker_status
from muster.plan.serving.identity import GROUP, REVISION
from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from muster.plan.model import Manifest


@dataclass(frozen=True, slots=True)
class Server(Pod):
    """A pod that serves, alone in its group.

    `restarts`: how often its process was started again inside of the pod; `died_of` is how the last one ended, as the
    kubelet has it. `cordoned`: its node is to take no more pods. `placed_at`: when it got its node. `evicted`: somebody
    asked for its eviction.
    """

    group: int
    revision: str
    restarts: int
    died_of: Mapping[str, object]
    cordoned: bool
    placed_at: float | None
    evicted: bool

    def is_lost(self, now: float, patience: float) -> bool:
        """Whether its node has been unreachable for so long that it is given up."""
        return self.lost_since is not None and now - self.lost_since >= patience

    @property
    def answers(self) -> bool:
        """Whether requests reach it, as far as Kubernetes knows."""
        return self.ready and self.running


def servers(pods: Iterable[Manifest], nodes: Mapping[str, Manifest]) -> tuple[Server, ...]:
    """Return all pods of the deployment, by group and then by attempt."""
    return tuple(sorted((_server(pod, nodes) for pod in pods), key=lambda server: (server.group, server.attempt)))


def _server(pod: Manifest, nodes: Mapping[str, Manifest]) -> Server:
    labels, worker = pod["metadata"]["labels"], worker_status(pod)
    placed, disrupted = condition(pod, "PodScheduled"), condition(pod, "DisruptionTarget")
    node = nodes.get(pod["spec"].get("nodeName", ""))
    return Server(
        **read(pod, nodes),
        group=int(labels[GROUP]),
        revision=labels[REVISION],
        restarts=int(worker.get("restartCount", 0)),
        died_of=worker.get("lastState", {}).get("terminated", {}),
        cordoned=node is not None and bool(node["spec"].get("unschedulable", False)),
        placed_at=to_epoch(placed["lastTransitionTime"]) if placed and placed["status"] == "True" else None,
        evicted=disrupted is not None and disrupted["status"] == "True",
    )
