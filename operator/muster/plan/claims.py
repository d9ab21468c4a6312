"""Devices that pods claim, by Dynamic Resource Allocation: the scheduler finds them, and nothing here counts them.

A container says which claims it uses, and its pod which those are. Or it asks for a resource as ever, of which a
DeviceClass says that it stands for its devices: on nodes that do not offer the resource, the scheduler makes the claim.
https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan import requests
from muster.plan.model import Reference
from muster.plan.timestamps import to_epoch

if TYPE_CHECKING:
    from collections.abc import Collection

    from muster.api.resources import Resources
    from muster.plan.model import Manifest

SETTLES = 75.0
"""Seconds that the scheduler looks for devices for a new pod. Within them, a gang that lacks some is taken back."""


def of_container(resources: Resources) -> dict[str, Any]:
    """Return the container's `resources`."""
    claims = [{"name": one.name, **({"request": one.request} if one.request else {})} for one in resources.claims or ()]
    return resources.amounts() | ({"claims": claims} if claims else {})


def of_pod(resources: Resources) -> dict[str, Any]:
    """Return what the pod of that container says beside."""
    claims = [
        {name: value for name, value in claim.manifest().items() if name != "request"}
        for claim in resources.claims or ()
    ]
    return {"resourceClaims": claims} if claims else {}


def references(resources: Resources) -> tuple[Reference, ...]:
    """Return what must be there for pods to get their devices."""
    found = []
    for number, claim in enumerate(resources.claims or ()):
        at = f"spec.resources.claims[{number}]"
        if claim.resource_claim_template_name is not None:
            template = claim.resource_claim_template_name
            found.append(Reference("ResourceClaimTemplate", template, f"{at}.resourceClaimTemplateName"))
        if claim.resource_claim_name is not None:
            found.append(Reference("ResourceClaim", claim.resource_claim_name, f"{at}.resourceClaimName"))
    return tuple(found)


def resources_of(classes: Collection[Manifest]) -> frozenset[str]:
    """Return the names of the resources that these DeviceClasses stand for: their own, and those that they say."""
    said = {one.get("spec", {}).get("extendedResourceName") for one in classes}
    own = {f"deviceclass.resource.kubernetes.io/{one['metadata']['name']}" for one in classes}
    return frozenset(name for name in said | own if name)


def claims_devices(spec: Manifest, claimable: frozenset[str]) -> bool:
    """Whether a pod of this spec does. `claimable`: resources that stand for such."""
    return bool(spec.get("resourceClaims")) or (bool(claimable) and not claimable.isdisjoint(requests.of_pod(spec)))


def settles(pod: Manifest, claimable: frozenset[str], now: float) -> bool:
    """Whether the scheduler looks for devices for this pod, which has no node yet; later it waits like any other."""
    if not claims_devices(pod["spec"], claimable):
        return False
    return now - to_epoch(pod["metadata"]["creationTimestamp"]) < SETTLES
