"""Whether the cluster has room for a whole gang of pods at this moment.

The answer errs on the side of the scheduler: pods that are made but not yet placed hold their room, a node
counts only if the pods tolerate it and select it. What cannot be judged here (affinity between pods, volume
topology) is left to the scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan import requests
from muster.plan.nodes import takes_new_pods

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal

    from muster.plan.model import Capacity, Manifest

FINISHED = {"Succeeded", "Failed"}


@dataclass(frozen=True, slots=True)
class Room:
    """How many of the gang's pods fit now, and how many would if nothing else ran on the cluster."""

    wanted: int
    now: int
    ever: int

    @property
    def fits(self) -> bool:
        return self.now >= self.wanted

    @property
    def never(self) -> bool:
        return self.ever < self.wanted


def room_for(gang: Sequence[Mapping[str, Any]], capacity: Capacity) -> Room:
    """Return the room for pods of these specs, all of them together."""
    whole = {
        node["metadata"]["name"]: requests.parse_all(node["status"].get("allocatable", {})) for node in capacity.nodes
    }
    nodes = {node["metadata"]["name"]: node for node in capacity.nodes}
    return Room(
        wanted=len(gang),
        now=_place(gang, nodes, _free(whole, nodes, capacity.pods)),
        ever=_place(gang, nodes, dict(whole)),
    )


def _free(
    whole: Mapping[str, dict[str, Decimal]], nodes: Mapping[str, Manifest], pods: Iterable[Manifest]
) -> dict[str, dict[str, Decimal]]:
    """Return what every node has left; pods without a node yet take the first that has room for them."""
    free = dict(whole)
    unplaced: list[Mapping[str, Any]] = []
    for pod in pods:
        if pod.get("status", {}).get("phase") in FINISHED:
            continue
        node = pod["spec"].get("nodeName")
        if node in free:
            free[node] = requests.subtract(free[node], requests.of_pod(pod["spec"]))
        elif not node:
            unplaced.append(pod["spec"])
    _place(unplaced, nodes, free)
    return free


def _place(
    specs: Sequence[Mapping[str, Any]], nodes: Mapping[str, Manifest], free: dict[str, dict[str, Decimal]]
) -> int:
    """Place what fits, each pod on the first node with room, and take that room from `free`; return how many."""
    placed = 0
    for spec in specs:
        wanted = requests.of_pod(spec)
        node = next((name for name in free if requests.fits(wanted, free[name]) and _admits(nodes[name], spec)), None)
        if node is not None:
            free[node] = requests.subtract(free[node], wanted)
            placed += 1
    return placed


def _admits(node: Manifest, spec: Mapping[str, Any]) -> bool:
    labels = node["metadata"].get("labels", {})
    selected = all(labels.get(key) == value for key, value in spec.get("nodeSelector", {}).items())
    return takes_new_pods(node) and selected and _tolerates(spec.get("tolerations", []), node["spec"].get("taints", []))


def _tolerates(tolerations: Iterable[Manifest], taints: Iterable[Manifest]) -> bool:
    blocking = [taint for taint in taints if taint["effect"] in {"NoSchedule", "NoExecute"}]
    return all(any(_matches(toleration, taint) for toleration in tolerations) for taint in blocking)


def _matches(toleration: Manifest, taint: Manifest) -> bool:
    """An empty key tolerates every key, an empty effect every effect."""
    if toleration.get("effect") not in {None, "", taint["effect"]}:
        return False
    if toleration.get("key") not in {None, "", taint["key"]}:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
