"""The nodes of the cluster, and which of them the operator leads from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.cluster.kube import kubectl


@contextlib.contextmanager
def keep_workers_off_the_leader() -> Iterator[None]:
    """No pod is placed on the node of the operator that leads."""
    node = node_of_the_leader()
    kubectl("cordon", node)
    try:
        yield
    finally:
        kubectl("uncordon", node)


def node_of_the_leader() -> str:
    holder = kubectl("get", "lease", "-n", "muster-system", "muster", "-o", "jsonpath={.spec.holderIdentity}").stdout
    return kubectl("get", "pod", "-n", "muster-system", holder.split("_")[0], "-o", "jsonpath={.spec.nodeName}").stdout


def ready(node: str) -> str:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubectl("get", "node", node, "-o", path).stdout
