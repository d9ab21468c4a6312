"""The HorizontalPodAutoscaler of a deployment: Kubernetes decides how many groups there are, Muster makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.drift import is_outdated
from muster.plan.model import Delete
from muster.plan.serving import identity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.api import ModelDeployment
    from muster.api.modeldeployment import Autoscaling
    from muster.plan.model import Manifest

RATE = "muster_serve_requests_per_second"
"""What a metrics adapter has to provide for each pod that leads a group."""


def to_apply(deployment: ModelDeployment, there: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """Return the autoscaler, where one is asked for and not there as it should be."""
    scaling = deployment.spec.autoscaling
    if scaling is None:
        return ()
    wanted = _build(deployment, scaling)
    return (wanted,) if is_outdated(wanted, there) else ()


def to_delete(deployment: ModelDeployment, there: Iterable[Manifest]) -> tuple[Delete, ...]:
    """Return what is left of one that is not asked for any more."""
    if deployment.spec.autoscaling is not None:
        return ()
    return tuple(
        Delete("HorizontalPodAutoscaler", one["metadata"]["name"], one["metadata"]["uid"])
        for one in there
        if "deletionTimestamp" not in one["metadata"]
    )


def _build(deployment: ModelDeployment, scaling: Autoscaling) -> Manifest:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": identity.metadata(deployment, deployment.metadata.name),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": deployment.api_version,
                "kind": deployment.kind,
                "name": deployment.metadata.name,
            },
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [_metric(scaling)],
        },
    }


def _metric(scaling: Autoscaling) -> dict[str, Any]:
    if scaling.metric == "cpu":
        share = {"type": "Utilization", "averageUtilization": round(float(scaling.target))}
        return {"type": "Resource", "resource": {"name": "cpu", "target": share}}
    rate = {"type": "AverageValue", "averageValue": scaling.target}
    return {"type": "Pods", "pods": {"metric": {"name": RATE}, "target": rate}}
