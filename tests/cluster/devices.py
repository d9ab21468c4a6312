"""Devices that pods can claim, for as long as a test needs them: by the driver of Kubernetes' own tests.

It runs on every node, registers with the kubelet, publishes how many devices there are and prepares those that the
scheduler has given to a pod. The devices are names: containers get nothing of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from local_cluster import go_builds
from local_cluster.checkout import this_checkout
from local_cluster.processes import Daemons
from tests.cluster import beside
from tests.cluster.kube import Kube, kubeconfig, kubectl, wait_for

CLASS = "devices"
CLAIM = ("resource.k8s.io/v1", "ResourceClaim")
_DRIVER = "test-driver.cdi.k8s.io"
# Pods of drivers have it as a volume, which makes it.
_WITH_A_DIRECTORY = f'mkdir -p /var/lib/kubelet/plugins/{_DRIVER}; exec "$@"'


@contextlib.contextmanager
def on_every_node(each: int) -> Iterator[int]:
    """So many on each; gives how many there are in all, of the DeviceClass CLASS."""
    if beside.slot() is None:
        pytest.skip("a driver joins a node only where the cluster is made of namespaces")
    program = go_builds.build(go_builds.DRA_TEST_DRIVER) / "test-driver"
    nodes = kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").stdout.split()
    selector = f'device.driver == "{_DRIVER}"'
    of_all = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": CLASS},
        "spec": {"selectors": [{"cel": {"expression": selector}}]},
    }
    with contextlib.ExitStack() as drivers:
        # Once they have ended: a driver that runs would publish them again.
        drivers.callback(kubectl, "delete", "resourceslices", f"--field-selector=spec.driver={_DRIVER}")
        for node in nodes:
            words = ("env", f"KUBECONFIG={kubeconfig()}", program, "kubelet-plugin", f"--node-name={node}")
            here = beside.program(f"devices-{node}", *words, f"--num-devices={each}", within=_inside(node))
            drivers.enter_context(here)
        definition = beside.write("device-class.yaml", of_all)
        kubectl("apply", f"--filename={definition}")
        try:
            wait_for("every node tells of its devices", lambda: len(_slices()) == len(nodes), 30)
            yield each * len(nodes)
        finally:
            kubectl("delete", f"--filename={definition}")


def template(name: str, count: int) -> dict[str, Any]:
    """By which each pod claims so many."""
    request = {"name": "some", "exactly": {"deviceClassName": CLASS, "count": count}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def claimed(kube: Kube) -> dict[str, list[str]]:
    """Pool and name of the devices, by the pods to which they are given."""
    found: dict[str, list[str]] = {}
    for claim in kube.list(CLAIM):
        status = claim.get("status") or {}
        results = status.get("allocation", {}).get("devices", {}).get("results", [])
        for pod in status.get("reservedFor", []):
            found[pod["name"]] = sorted(f"{one['pool']}/{one['device']}" for one in results)
    return found


def _slices() -> list[str]:
    path = "jsonpath={.items[*].metadata.name}"
    return kubectl("get", "resourceslices", f"--field-selector=spec.driver={_DRIVER}", "-o", path).stdout.split()


def _inside(node: str) -> list[str]:
    """A command that becomes another one among the node's own directories, where its kubelet looks for drivers."""
    checkout = this_checkout()
    daemons = Daemons(checkout.state / "processes.json", checkout.logs)
    pid = daemons.get(f"containerd-{node.removeprefix('node-')}").pid
    return ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--", "/bin/sh", "-ec", _WITH_A_DIRECTORY, "sh"]
