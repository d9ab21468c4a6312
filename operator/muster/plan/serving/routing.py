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
    meta = endpoint_slice["metadata"]
    labels = {name: value for name, value in (meta.get("labels") or {}).items() if name in {_SERVICE, UID}}
    owner = {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "ModelDeployment",
        "name": labels.get(_SERVICE, ""),
        "uid": labels.get(UID, ""),
    }
    own = {name: meta[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in meta}
    ready = [
        {"addresses": endpoint["addresses"]}
        for endpoint in endpoint_slice.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
    ]
    return {"metadata": own | {"labels": labels, "ownerReferences": [owner]}, "endpoints": ready}


def addresses(slices: Iterable[Manifest]) -> frozenset[str]:
    """Return those that requests are sent to, of slices as they are kept."""
    return frozenset(address for one in slices for endpoint in one["endpoints"] for address in endpoint["addresses"])
