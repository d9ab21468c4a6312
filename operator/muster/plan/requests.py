"""What a pod takes from a node, as the scheduler counts it.

Amounts are by resource name: cores, bytes, devices, and `pods` for the slot that every pod takes.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from muster.api.quantity import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


NOTHING = Decimal(0)
_OF_CONTAINERS = ("name", "image", "resources", "restartPolicy")


def of_pod(spec: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return what the pod takes: the larger of its containers together and its largest init container, plus overhead.

    Sidecars (init containers that restart always) run on beside the containers and so count with them. What the pod
    asks for as a whole goes before what its containers do.
    https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers
    https://kubernetes.io/docs/tasks/configure-pod-container/assign-pod-level-resources/
    """
    running: dict[str, Decimal] = {}
    peak: dict[str, Decimal] = {}
    for container in spec.get("initContainers", []):
        if container.get("restartPolicy") == "Always":
            running = add(running, _of_container(container))
            peak = _larger(peak, running)
        else:
            peak = _larger(peak, add(running, _of_container(container)))
    for container in spec.get("containers", []):
        running = add(running, _of_container(container))
    total = _larger(peak, running)
    total |= _of_whole(spec.get("resources", {}), beside=total)
    return add(add(total, parse_all(spec.get("overhead", {}))), {"pods": Decimal(1)})


def wanted(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a pod's spec says what runs, what it takes and, until it has a node, which nodes may give it."""
    kept: dict[str, Any] = {
        kind: [{name: one[name] for name in _OF_CONTAINERS if name in one} for one in spec[kind]]
        for kind in ("initContainers", "containers")
        if kind in spec
    }
    unplaced = ("resources", "overhead", "nodeSelector", "affinity", "tolerations", "schedulingGates", "resourceClaims")
    placing = ("nodeName", "resources", "overhead") if spec.get("nodeName") else unplaced
    return kept | {name: spec[name] for name in placing if name in spec}


def parse_all(quantities: Mapping[str, Any]) -> dict[str, Decimal]:
    return {name: parse_quantity(value) for name, value in quantities.items()}


def add(left: Mapping[str, Decimal], right: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {name: left.get(name, NOTHING) + right.get(name, NOTHING) for name in {*left, *right}}


def subtract(left: Mapping[str, Decimal], right: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {name: left.get(name, NOTHING) - right.get(name, NOTHING) for name in {*left, *right}}


def fits(wanted: Mapping[str, Decimal], free: Mapping[str, Decimal]) -> bool:
    """A loop, since every pod of every gang is tried on node after node."""
    for name, amount in wanted.items():  # noqa: SIM110
        if amount > free.get(name, NOTHING) and amount > NOTHING:
            return False
    return True


def describe(resources: Mapping[str, Decimal]) -> str:
    """Return the amounts for a person: `2 cpu, 4Gi memory, 1 nvidia.com/gpu`."""
    shown = (
        f"{_short(name, amount)} {name}" for name, amount in sorted(resources.items()) if name != "pods" and amount
    )
    return ", ".join(shown) or "nothing in particular"


def _short(name: str, amount: Decimal) -> str:
    if name in {"memory", "ephemeral-storage"} or name.startswith("hugepages-"):
        for suffix, size in (("Gi", 2**30), ("Mi", 2**20)):
            if amount >= size:
                return f"{amount / size:.4g}{suffix}"
    return f"{amount.normalize():f}"


def _of_container(container: Mapping[str, Any]) -> dict[str, Decimal]:
    """A limit without a request is the request: the API server fills it in when the pod is made.

    Null is absence, as charts write it in templates.
    """
    resources = container.get("resources") or {}
    return parse_all({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _of_whole(resources: Mapping[str, Any], beside: Collection[str]) -> dict[str, Decimal]:
    """Its limit is the request of what neither it nor any container (`beside`) asks for: the API server fills it in."""
    limits = {name: amount for name, amount in resources.get("limits", {}).items() if name not in beside}
    return parse_all({**limits, **resources.get("requests", {})})


def _larger(left: Mapping[str, Decimal], right: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {name: max(left.get(name, NOTHING), right.get(name, NOTHING)) for name in {*left, *right}}
