"""The real metrics-server, for as long as a test needs it: who answers for metrics.k8s.io."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from local_cluster import go_builds
from tests.cluster import beside
from tests.cluster.kube import kubeconfig, kubectl

_NAME, _NAMESPACE = "metrics-server", "kube-system"
_PORT = 4443


@contextlib.contextmanager
def running(address: str) -> Iterator[None]:
    """metrics-server, until this ends. `address`: the control plane's, at which the API server is to ask it."""
    place = go_builds.build(go_builds.METRICS_SERVER)
    certificate, key = beside.certificate(_NAME, f"{_NAME}.{_NAMESPACE}.svc")
    words = (
        place / "metrics-server",
        # It trusts the kubelets by the authority that is in there, too.
        *(f"--{purpose}kubeconfig={kubeconfig()}" for purpose in ("", "authentication-", "authorization-")),
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--secure-port={_PORT}",
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-request-timeout=5s",
        "--metric-resolution=10s",  # the shortest that it takes, and as often as kubelets measure
    )
    with beside.program(_NAME, *words) as process:
        beside.answers(_NAME, process, f"https://127.0.0.1:{_PORT}/readyz")
        with _registered(address, certificate):
            yield


@contextlib.contextmanager
def _registered(address: str, authority: Path) -> Iterator[None]:
    """The API server asks it, until this ends. While one that is registered is silent, no namespace can go away."""
    objects = yaml.safe_dump_all(_objects(address, authority))
    kubectl("apply", "--server-side", "--filename=-", text=objects)
    try:
        kubectl("wait", "--for=condition=Available", "--timeout=60s", "apiservice/v1beta1.metrics.k8s.io")
        yield
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=true", "--timeout=60s", "--filename=-", text=objects)


def _objects(address: str, authority: Path) -> list[dict[str, Any]]:
    metadata = {"name": _NAME, "namespace": _NAMESPACE}
    service = {"ports": [{"name": "https", "port": 443, "targetPort": _PORT}]}
    api = {
        "group": "metrics.k8s.io",
        "version": "v1beta1",
        "service": metadata,
        "caBundle": base64.b64encode(authority.read_bytes()).decode(),
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata | {"labels": {"kubernetes.io/service-name": _NAME}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"name": "https", "port": _PORT}],
    }
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        endpoints,
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": api,
        },
    ]
