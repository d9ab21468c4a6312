"""The groups of a deployment as the policies see them: which there are, who answers, who is lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from muster.plan.pods import Pod, condition, read, worker_status
from muster.plan.serving.identity import GROUP, REVISION, SIZE, name_of_rank
from muster.plan.serving.reachability import GATE, cut_off
from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from muster.plan.model import Manifest, Observed


@dataclass(frozen=True, slots=True)
class Worker(Pod):
    """One pod of a group.

    `restarts`: how often its container was started again; `died_of` is how the last one ended, as the kubelet has it.
    `cordoned`: its node is to take no more pods. `placed_at`: when it got its node. `turned_at`: when it became ready,
    or ready no more. `evicted`: somebody asked for its eviction. `serving_since`: when the kubelet found that it is
    ready; None while it is not. `gate`: whether it is said to be reachable; None where that was never said. `cut_off`:
    it does not answer the operator.
    """

    group: int
    revision: str
    size: int
    restarts: int
    died_of: Mapping[str, Any]
    cordoned: bool
    placed_at: float | None
    turned_at: float | None
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
        """Whether it will not come back and nobody told it to leave: it has ended, or its node is given up."""
        given_up = self.lost_since is not None and now - self.lost_since >= patience
        return given_up or (self.ended and not self.deleting)


@dataclass(frozen=True, slots=True)
class Server:
    """What answers for a group: the pods that were made together, by rank. The first takes the requests.

    It is only as well as the least of them. `name` is that of the first pod; `size`: how many pods it is to have.
    `routed`: whether the Service leads to it, as far as anybody knows.
    """

    name: str
    group: int
    attempt: int
    revision: str
    size: int
    pods: tuple[Worker, ...]
    routed: bool = True

    @property
    def leader(self) -> Worker | None:
        return self.pods[0] if self.pods[0].rank == 0 else None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its pods, there or not."""
        return tuple(name_of_rank(self.name, rank) for rank in range(self.size))

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of its pods that are not there."""
        there = {pod.name for pod in self.pods}
        return tuple(name for name in self.names if name not in there)

    @property
    def answers(self) -> bool:
        """Whether requests reach it, as far as anybody knows."""
        leader, whole = self.leader, not self.missing and all(pod.running for pod in self.pods)
        return leader is not None and leader.ready and self.routed and whole and not self.cut_off

    @property
    def deleting(self) -> bool:
        return any(pod.deleting for pod in self.pods)

    @property
    def cut_off(self) -> bool:
        return any(pod.cut_off for pod in self.pods)

    @property
    def cordoned(self) -> bool:
        return any(pod.cordoned for pod in self.pods)

    @property
    def unplaced(self) -> Worker | None:
        """The first of its pods that no node takes."""
        return next((pod for pod in self.pods if pod.unplaced_since is not None), None)

    @property
    def due_since(self) -> float | None:
        """Since when it is to answer: all of its pods have a node, and none has stopped to be ready since.

        None while one has no node.
        """
        placed = [pod.placed_at for pod in self.pods]
        turned = [pod.turned_at for pod in self.pods]
        return None if None in placed else max(at for at in (*placed, *turned) if at is not None)

    @property
    def troubled(self) -> Worker | None:
        """The first of its pods of which there is something to say: why it has not started, or has ended."""
        return next((pod for pod in self.pods if pod.reason), None)

    @property
    def restarts(self) -> int:
        return sum(pod.restarts for pod in self.pods)


def servers(observed: Observed, patience: float, now: float) -> tuple[Server, ...]:
    """Return what there is of all groups, by group and then by attempt.

    `patience`: seconds without an answer after which a pod is cut off.
    """
    of_groups = (pod for pod in observed.pods if GROUP in pod["metadata"]["labels"])
    workers = (_worker(pod, observed.nodes) for pod in of_groups)
    found = [replace(one, cut_off=cut_off(one, observed, patience, now)) for one in workers]
    found.sort(key=lambda one: (one.group, one.attempt, one.rank))
    by_server = groupby(found, key=lambda one: (one.group, one.attempt))
    return tuple(_server(pods, observed.routed) for _, pods in by_server)


def _server(pods: Iterable[Worker], routed: Collection[str] | None) -> Server:
    there = tuple(pods)
    first = there[0]
    name = first.name.removesuffix(f"-{first.rank}") if first.rank else first.name
    leads_there = routed is None or first.address in routed
    return Server(name, first.group, first.attempt, first.revision, first.size, there, leads_there)


def _worker(pod: Manifest, nodes: Mapping[str, Manifest]) -> Worker:
    labels, worker = pod["metadata"]["labels"], worker_status(pod)
    disrupted, gate = condition(pod, "DisruptionTarget"), condition(pod, GATE)
    node = nodes.get(pod["spec"].get("nodeName", ""))
    return Worker(
        **read(pod, nodes),
        group=int(labels[GROUP]),
        revision=labels[REVISION],
        size=int(labels.get(SIZE, 1)),
        restarts=int(worker.get("restartCount", 0)),
        died_of=_terminated(worker, "state") or _terminated(worker, "lastState"),
        cordoned=node is not None and bool(node["spec"].get("unschedulable", False)),
        placed_at=_since(pod, "PodScheduled"),
        turned_at=_last_change(condition(pod, "Ready")),
        evicted=disrupted is not None and disrupted["status"] == "True",
        serving_since=_since(pod, "ContainersReady"),
        gate=None if gate is None else gate["status"] == "True",
    )


def _terminated(worker: Mapping[str, Any], which: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = worker.get(which, {}).get("terminated", {})
    return found


def _since(pod: Manifest, kind: str) -> float | None:
    """Return since when the condition holds; None while it does not."""
    said = condition(pod, kind)
    return _last_change(said) if said is not None and said["status"] == "True" else None


def _last_change(said: Mapping[str, Any] | None) -> float | None:
    at = said.get("lastTransitionTime") if said is not None else None
    return to_epoch(at) if at else None
