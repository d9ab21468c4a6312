"""What all pods of Muster have in common."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from muster.plan.nodes import REQUIRED

if TYPE_CHECKING:
    from collections.abc import Sequence

USER = 1000
HOST = "kubernetes.io/hostname"


def hardened_pod() -> dict[str, Any]:
    """Return what of a pod's spec keeps it from everything that it does not need."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Until a name server that was lost with a node is missed, half of all look-ups go there: 10 s each by default.
        "dnsConfig": {"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "2"}]},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def hardened_container() -> dict[str, Any]:
    """Return the securityContext of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def complete_environment(spec: dict[str, Any], environment: dict[str, str]) -> None:
    """Put Muster's variables before the others, so that `$(MUSTER_RANK)` can be used in those."""
    worker = next(container for container in spec["containers"] if container["name"] == "worker")
    ours = [{"name": name, "value": value} for name, value in environment.items()]
    theirs = [variable for variable in worker.get("env", []) if variable["name"] not in environment]
    worker["env"] = ours + theirs


def keep_off(spec: dict[str, Any], nodes: Sequence[str]) -> None:
    """Add to every way in which the pod may be placed that it is not on these: the scheduler takes them for sound."""
    if not nodes:
        return
    # By their names, which their label for the host need not have; of a field, a requirement takes one value.
    terms = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    spec["affinity"] = copy.deepcopy(spec.get("affinity", {}))  # the template's own must stay as it is
    # What is null in a template, as charts write it, is absent.
    nodes_only = spec["affinity"].get("nodeAffinity") or {}
    required = nodes_only.get(REQUIRED) or {"nodeSelectorTerms": [{}]}
    for one in required["nodeSelectorTerms"]:
        one["matchFields"] = [*(one.get("matchFields") or ()), *terms]
    spec["affinity"]["nodeAffinity"] = nodes_only | {REQUIRED: required}
