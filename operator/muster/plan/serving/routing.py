"""Whom requests are sent to: the addresses in the EndpointSlices of a deployment's Service.

A pod that is ready is asked once its address is there: until then, its predecessor stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.serving.identity import UID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.model import Manifest

_SERVICE = "kubernetes.io/service-name"


def kept(endpoint_slice: Manifest) -> dict[str, Any]:
    """Return what matters of it, under the name of whose Service it is: Kubernetes copies that one's labels."""
    if "addresses" in endpoint_slice:
        return dict(endpoint_slice)  # that is it already: a list is made of such
    meta = endpoint_slice["metadata"]
    labels = meta.get("labels") or {}
    owner = {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "ModelDeployment",
        "name": labels.get(_SERVICE, ""),
        "uid": labels.get(UID, ""),
    }
    ready = (
        address
        for endpoint in endpoint_slice.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint["addresses"]
    )
    own = {name: meta[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in meta}
    return {"metadata": own | {"ownerReferences": [owner]}, "addresses": tuple(ready)}


def addresses(slices: Iterable[Manifest]) -> frozenset[str]:
    """Return those that requests are sent to."""
    return frozenset(address for one in slices for address in one["addresses"])
