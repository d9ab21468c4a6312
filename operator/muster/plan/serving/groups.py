"""The groups of a deployment as the policies see them: which there are, who answers, who is lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from muster.plan.pods import Pod, condition, read, worker_status
from muster.plan.serving.identity import GROUP, REVISION
from muster.plan.serving.reachability import GATE, cut_off
from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.plan.model import Manifest, Observed


@dataclass(frozen=True, slots=True)
class Server(Pod):
    """A pod that serves, alone in its group.

    `restarts`: how often its process was started again inside of the pod; `died_of` is how the last one ended, as the
    kubelet has it. `cordoned`: its node is to take no more pods. `placed_at`: when it got its node. `evicted`: somebody
    asked for its eviction. `serving_since`: when the kubelet found that it answers; None while it does not. `gate`:
    whether it is said to be reachable; None where that was never said. `cut_off`: it does not answer the operator.
    """

    group: int
    revision: str
    restarts: int
    died_of: Mapping[str, Any]
    cordoned: bool
    placed_at: float | None
    evicted: bool
    serving_since: float | None
    gate: bool | None
    cut_off: bool = False

    @property
    def last_words(self) -> str:
        """What its process said at its last end; the exit code where it said nothing."""
        said = str(self.died_of.get("message") or "").strip().splitlines()
        line = next((line for line in reversed(said) if line.startswith("error: ")), said[-1] if said else "")
        return line.removeprefix("error: ") or f"its process ended with exit code {self.died_of.get('exitCode')}"

    def is_lost(self, now: float, patience: float) -> bool:
        """Whether its node has been unreachable for so long that it is given up."""
        return self.lost_since is not None and now - self.lost_since >= patience

    @property
    def answers(self) -> bool:
        """Whether requests reach it, as far as anybody knows."""
        return self.ready and self.running and not self.cut_off


def servers(observed: Observed, patience: float, now: float) -> tuple[Server, ...]:
    """Return all pods of the deployment, by group and then by attempt.

    `patience`: seconds without an answer after which one is cut off.
    """
    found = sorted(
        (_server(pod, observed.nodes) for pod in observed.pods), key=lambda server: (server.group, server.attempt)
    )
    reports, heard_at = observed.reports, observed.heard_at
    return tuple(replace(one, cut_off=cut_off(one, reports.get(one.uid), heard_at, patience, now)) for one in found)


def _server(pod: Manifest, nodes: Mapping[str, Manifest]) -> Server:
    labels, worker = pod["metadata"]["labels"], worker_status(pod)
    disrupted, gate = condition(pod, "DisruptionTarget"), condition(pod, GATE)
    node = nodes.get(pod["spec"].get("nodeName", ""))
    return Server(
        **read(pod, nodes),
        group=int(labels[GROUP]),
        revision=labels[REVISION],
        restarts=int(worker.get("restartCount", 0)),
        died_of=worker.get("lastState", {}).get("terminated", {}),
        cordoned=node is not None and bool(node["spec"].get("unschedulable", False)),
        placed_at=_since(pod, "PodScheduled"),
        evicted=disrupted is not None and disrupted["status"] == "True",
        serving_since=_since(pod, "ContainersReady"),
        gate=None if gate is None else gate["status"] == "True",
    )


def _since(pod: Manifest, kind: str) -> float | None:
    """Return since when the condition holds; None while it does not."""
    said = condition(pod, kind)
    return to_epoch(said["lastTransitionTime"]) if said is not None and said["status"] == "True" else None
