"""A real Gateway of the Gateway API, for as long as a test needs it: Traefik, from its own source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from local_cluster import go_builds
from tests.cluster import beside
from tests.cluster.kube import Kube, kubeconfig, kubectl

API = "gateway.networking.k8s.io/v1"
ROUTE = (API, "HTTPRoute")
NAME = "inference"
_HEALTH = "127.0.0.1:8082"


@contextlib.contextmanager
def api() -> Iterator[None]:
    """The kinds alone, with nobody to serve them."""
    with beside.definitions(go_builds.TRAEFIK):
        yield


@contextlib.contextmanager
def running(kube: Kube) -> Iterator[str]:
    """Traefik, and a Gateway of the namespace that it serves; where clients reach it by port 80. Needs `api`."""
    slot = beside.slot()
    if slot is None:
        pytest.skip("pods and the gateway reach one another only where the cluster is made of namespaces")
    words = (
        *("env", f"KUBECONFIG={kubeconfig()}", go_builds.build(go_builds.TRAEFIK) / "traefik"),
        "--providers.kubernetesgateway=true",
        f"--providers.kubernetesgateway.namespaces={kube.namespace}",
        "--entryPoints.web.address=:80",
        *("--ping=true", f"--entryPoints.traefik.address={_HEALTH}"),
        *("--log.level=DEBUG", "--global.checknewversion=false", "--global.sendanonymoususage=false"),
    )
    with _class(kube), beside.program("traefik", *words) as process:
        beside.answers("traefik", process, f"http://{_HEALTH}/ping")
        listener = {"name": "web", "protocol": "HTTP", "port": 80}
        kube.apply(_object("Gateway", NAME, gatewayClassName=kube.namespace, listeners=[listener]))
        yield str(slot.control_plane_address)


@contextlib.contextmanager
def _class(kube: Kube) -> Iterator[None]:
    kube.apply(_object("GatewayClass", kube.namespace, controllerName="traefik.io/gateway-controller"))
    try:
        yield
    finally:
        kubectl("delete", "gatewayclass", kube.namespace, "--ignore-not-found")


def _object(kind: str, name: str, **spec: object) -> dict[str, object]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}
