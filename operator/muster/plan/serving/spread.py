"""Where groups are: each in a part of the cluster of its own, with all of its pods, so that no part takes two along.

As far as there is room: only what `spec.spread.policy: Require` says keeps a pod from being placed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.pod_parts import HOST
from muster.plan.pods import ATTEMPT
from muster.plan.serving import identity

if TYPE_CHECKING:
    from muster.api import ModelDeployment, ModelDeploymentSpec
    from muster.plan.serving.revisions import Revision

_MOST = 100
"""Of what a preference may weigh."""


def of_groups(deployment: ModelDeployment, spec: ModelDeploymentSpec) -> dict[str, Any]:
    """Return the topology spread constraint of the first pods of all groups."""
    required = spec.spread is not None and spec.spread.policy == "Require"
    return {
        "maxSkew": 1,
        "topologyKey": _key(spec),
        "whenUnsatisfiable": "DoNotSchedule" if required else "ScheduleAnyway",
        "labelSelector": {"matchLabels": identity.leaders(deployment)},
        # Those of another revision are on their way out: what counts is how the new ones lie.
        "matchLabelKeys": [identity.REVISION],
    }


def of_pods(deployment: ModelDeployment, revision: Revision, group: int, attempt: int) -> dict[str, Any]:
    """Return the affinity of every pod of a group of several: to one another, and away from other groups' pods."""
    alike = identity.everyone(deployment) | {identity.REVISION: revision.name}
    ours = {"matchLabels": alike | {identity.GROUP: str(group), ATTEMPT: str(attempt)}}
    theirs = {
        "matchLabels": alike,
        "matchExpressions": [{"key": identity.GROUP, "operator": "NotIn", "values": [str(group)]}],
    }
    return {"podAffinity": _preferred(revision.spec, ours), "podAntiAffinity": _preferred(revision.spec, theirs)}


def _preferred(spec: ModelDeploymentSpec, selector: dict[str, Any]) -> dict[str, Any]:
    """Return a preference for the part that groups are spread over, and there for one node."""
    return {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": _MOST, "podAffinityTerm": {"topologyKey": key, "labelSelector": selector}}
            for key in dict.fromkeys((_key(spec), HOST))
        ]
    }


def _key(spec: ModelDeploymentSpec) -> str:
    return spec.spread.topology_key if spec.spread is not None else HOST
