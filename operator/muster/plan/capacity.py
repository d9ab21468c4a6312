"""How much of each node is taken, and whether a whole gang of pods finds a place in what is left.

The answer errs on the side of the scheduler: pods that are made but not yet placed hold their room, a node
counts only if the pods tolerate it and select it. What cannot be judged here (affinity between pods, volume
topology, devices that are claimed) is left to the scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from muster.plan import claims, requests
from muster.plan.nodes import is_named_by, takes_new_pods

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from muster.plan.model import Manifest

FINISHED = {"Succeeded", "Failed"}

Gang: TypeAlias = "Sequence[Manifest]"
"""The specs of pods that start together."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """The nodes, what each has in all, and what each has left."""

    nodes: Mapping[str, Manifest]
    whole: Mapping[str, dict[str, Decimal]]
    free: Mapping[str, dict[str, Decimal]]
    claimable: frozenset[str] = frozenset()
    """Resources that nodes need not offer: they stand for devices that are claimed."""
    unsettled: bool = False
    """Whether the scheduler looks for devices that some pods claim."""

    @classmethod
    def count(
        cls, nodes: Iterable[Manifest], pods: Iterable[Manifest], now: float, classes: Collection[Manifest] = ()
    ) -> Capacity:
        """Return what everybody's pods leave; those without a node yet take the first that has room for them.

        `classes`: the DeviceClasses.
        """
        by_name = {node["metadata"]["name"]: node for node in nodes}
        claimable = claims.resources_of(classes)
        whole = {name: _offered(node, claimable) for name, node in by_name.items()}
        free = dict(whole)
        unplaced: list[Mapping[str, Any]] = []
        unsettled = False
        for pod in pods:
            if pod.get("status", {}).get("phase") in FINISHED:
                continue
            node = pod["spec"].get("nodeName")
            if node in free:
                free[node] = requests.subtract(free[node], requests.of_pod(pod["spec"]))
            elif not node and not pod["spec"].get("schedulingGates"):  # else the scheduler does not look at it yet
                unplaced.append(pod["spec"])
                unsettled = unsettled or claims.settles(pod, claimable, now)
        return cls(by_name, whole, free, claimable, unsettled).place(unplaced)[1]

    def place(self, gang: Gang, among: Iterable[str] | None = None) -> tuple[int, Capacity]:
        """Put each pod on the first node (of these) with room for it; return how many found one, and what is left.

        Where not all do, those that ask for devices come first, and the others go where no devices are, if all do then.
        """
        nodes = list(self.free if among is None else among)
        found = self._place(gang, nodes)
        if found[0] < len(gang) and any(map(_devices_of, gang)):
            sparing = self._place(
                sorted(gang, key=_devices_of, reverse=True),
                sorted(nodes, key=lambda name: _are_devices(self.whole[name])),
            )
            return sparing if sparing[0] == len(gang) else found
        return found

    def _place(self, gang: Gang, nodes: Sequence[str]) -> tuple[int, Capacity]:
        free, placed = dict(self.free), 0
        left: Iterator[str] = iter(())
        name, before = None, None
        for spec in gang:
            wanted = requests.of_pod(spec)
            shape = wanted, spec.get("nodeSelector"), spec.get("tolerations"), spec.get("affinity")
            if shape != before:
                left = iter(nodes)
                name, before = next(left, None), shape
            # A node that has no room for such a pod has none for the next one either.
            while name is not None and not (requests.fits(wanted, free[name]) and self._admits(name, spec)):
                name = next(left, None)
            if name is not None:
                free[name] = requests.subtract(free[name], wanted)
                placed += 1
        return placed, replace(self, free=free)

    def empty(self) -> Capacity:
        """Return what there would be if nothing ran."""
        return replace(self, free=self.whole)

    def domains(self, key: str) -> dict[str, list[str]]:
        """Return the nodes by their value of this label, in order; nodes without it belong to none."""
        found: dict[str, list[str]] = {}
        for name, node in self.nodes.items():
            value = node["metadata"].get("labels", {}).get(key)
            if value:
                found.setdefault(value, []).append(name)
        return dict(sorted(found.items()))

    def _admits(self, name: str, spec: Mapping[str, Any]) -> bool:
        node = self.nodes[name]
        tolerated = _tolerates(spec.get("tolerations", []), node["spec"].get("taints", []))
        return takes_new_pods(node) and tolerated and is_named_by(spec, node)


def _devices_of(spec: Manifest) -> bool:
    return _are_devices(requests.of_pod(spec))


def _are_devices(resources: Mapping[str, Decimal]) -> bool:
    """Whether there are any of those that Kubernetes only counts: their names have a domain."""
    return any("/" in name and amount for name, amount in resources.items())


def _offered(node: Manifest, claimable: Iterable[str]) -> dict[str, Decimal]:
    """What the node offers itself, and without end what can be claimed instead: that is not counted here.

    A node that has just joined has no status yet. One that has lost its device plugin offers 0 of its devices.
    """
    found = requests.parse_all(node.get("status", {}).get("allocatable", {}))
    return found | {name: Decimal("Infinity") for name in claimable if not found.get(name)}


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
