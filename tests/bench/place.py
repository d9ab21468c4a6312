"""Where the benchmark runs: in the network of the cluster's control plane, where simulated pods can be answered for.

Nothing of the machine outside is touched: the namespace is the cluster's, and goes with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from local_cluster import simulated
from local_cluster.checkout import this_checkout
from local_cluster.native import network, slots

ROOT = Path(__file__).parents[2]


def enter(arguments: Sequence[str]) -> None:
    """Begin this program again in there; returns when it is there already."""
    slot = slots.slot_of(this_checkout())
    if slot is None:
        sys.exit(
            "no native cluster runs in this checkout: `make bench`, or first\n"
            "  python3 -m local_cluster up --simulated-nodes 200 --provider native"
        )
    os.environ["KUBECONFIG"] = str(this_checkout().kubeconfig)
    if not Path("/proc/self/ns/net").samefile(f"/run/netns/{slot.namespace(network.CONTROL_PLANE)}"):
        command = [*network.enter(slot, network.CONTROL_PLANE), sys.executable, "-m", "tests.bench", *arguments]
        os.execvp(command[0], command)


@contextlib.contextmanager
def addresses_of_pods() -> Iterator[None]:
    """While this lasts, a server on all addresses is reached under that of every simulated pod, too."""
    route = ["local", simulated.PODS, "dev", "lo"]
    subprocess.run(["ip", "route", "replace", *route], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "delete", *route], check=True)
