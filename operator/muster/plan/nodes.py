"""What a node's object says about whether its pods can be trusted to run, or new ones to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from muster.plan.model import Manifest

UNREACHABLE = "node.kubernetes.io/unreachable"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def unreachable_since(node: Manifest) -> float | None:
    """Return when the node controller last heard of this node's kubelet; None while it does hear.

    Ready is `Unknown` only when the kubelet stopped reporting: the node is cut off, hung or gone. `False` is
    the kubelet's own word, so it is still there to end its pods in the ordinary way.
    """
    ready = _condition(node, "Ready")
    if ready.get("status") != "Unknown":
        return None
    return to_epoch(ready["lastTransitionTime"])


def lost_since(node: Manifest) -> float | None:
    """Return the same of a node that new pods are kept off; until then its own pods must not be replaced.

    The taint follows the condition a moment later. Before it, the scheduler would place the successors on this very
    node, where their predecessors had just left room, and they would be lost in turn.
    """
    tainted = any(taint["key"] == UNREACHABLE for taint in node["spec"].get("taints", []))
    return unreachable_since(node) if tainted else None


def takes_new_pods(node: Manifest) -> bool:
    """Return whether the scheduler may place pods there at all."""
    return _condition(node, "Ready").get("status") == "True" and not node["spec"].get("unschedulable", False)


def is_named_by(spec: Mapping[str, Any], node: Manifest) -> bool:
    """Return whether this node is one of those that a pod asks for, by its node selector and its node affinity."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    return required is None or any(_meets(node, labels, term) for term in required.get("nodeSelectorTerms") or ())


def _meets(node: Manifest, labels: Mapping[str, str], term: Mapping[str, Any]) -> bool:
    """A term that says nothing names no node."""
    fields = {"metadata.name": node["metadata"]["name"]}
    by_labels = ((one, labels) for one in term.get("matchExpressions") or ())
    by_fields = ((one, fields) for one in term.get("matchFields") or ())
    said = [_holds(one, among.get(one["key"])) for one, among in (*by_labels, *by_fields)]
    return bool(said) and all(said)


def _holds(requirement: Mapping[str, Any], found: str | None) -> bool:
    values = requirement.get("values") or []
    match requirement["operator"]:
        case "In":
            return found in values
        case "NotIn":
            return found not in values
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
    try:
        number, limit = int(found or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return number > limit if requirement["operator"] == "Gt" else number < limit


def _condition(node: Manifest, kind: str) -> Mapping[str, str]:
    conditions = node.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})
