"""Where the benchmark runs: in the network of the cluster's control plane, where simulated pods can be answered for.

Nothing of the machine outside is touched: the namespace is the cluster's, and goes with it.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from local_cluster import simulated
from local_cluster.checkout import this_checkout
from local_cluster.errors import ClusterError
from local_cluster.native import cgroups, network, slots
from local_cluster.native.cluster import Cluster

ROOT = Path(__file__).parents[2]


def inside() -> list[str]:
    """Return the beginning of a command that runs in there."""
    slot = slots.slot_of(this_checkout())
    if slot is None:
        raise ClusterError("the cluster of this checkout is not a native one: `make cluster-down`, then `make bench`")
    return network.enter(slot, network.CONTROL_PLANE)


@cache
def controller_manager() -> int:
    """Return the process id of kube-controller-manager."""
    checkout = this_checkout()
    slot = slots.slot_of(checkout)
    assert slot is not None
    return Cluster(checkout, slot, ROOT, cgroups.mounted()).daemons.get("kube-controller-manager").pid


@contextlib.contextmanager
def addresses_of_pods() -> Iterator[None]:
    """While this lasts, a server on all addresses is reached under that of every simulated pod, too."""
    route = ["local", simulated.PODS, "dev", "lo"]
    subprocess.run(["ip", "route", "replace", *route], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "delete", *route], check=True)
