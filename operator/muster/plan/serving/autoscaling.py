"""The HorizontalPodAutoscaler of a deployment: Kubernetes decides how many groups there are, Muster makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.api.quantity import parse_quantity
from muster.plan.drift import differs, found
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
    return (wanted,) if differs(_in_numbers(wanted), _in_numbers(found(wanted, there))) else ()


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


def _in_numbers(autoscaler: Any) -> Any:
    """The same with its quantity as a number: the API server writes 1000 as 1k."""
    if isinstance(autoscaler, dict):
        return {
            name: parse_quantity(value) if name == "averageValue" else _in_numbers(value)
            for name, value in autoscaler.items()
        }
    return [_in_numbers(one) for one in autoscaler] if isinstance(autoscaler, list) else autoscaler


def _metric(scaling: Autoscaling) -> dict[str, Any]:
    if scaling.metric == "cpu":
        share = {"type": "Utilization", "averageUtilization": round(float(scaling.target))}
        return {"type": "Resource", "resource": {"name": "cpu", "target": share}}
    rate = {"type": "AverageValue", "averageValue": scaling.target}
    return {"type": "Pods", "pods": {"metric": {"name": RATE}, "target": rate}}
