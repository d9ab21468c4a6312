"""Brings a benchmark about: a cluster of simulated nodes, and a program that measures from within its network.

A cluster that had to be brought up for it is taken down again, whatever happens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from local_cluster import commands, interrupts
from local_cluster.checkout import this_checkout
from local_cluster.errors import ClusterError
from local_cluster.providers import existing
from tests.bench import place

NODES = 200
_LOCAL_CLUSTER = (sys.executable, "-m", "local_cluster")


def bring_about(module: str, words: Sequence[str], build: Callable[[], None] = lambda: None) -> int:
    """Run the module there with these words; return its exit code. `build`: what is to be done before."""
    os.chdir(place.ROOT)
    interrupts.install()
    try:
        build()
        return _run(module, words)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except interrupts.Interrupted as interrupt:
        print(f"stopped by {interrupt}", file=sys.stderr)
        return 128 + interrupt.signum


def _run(module: str, words: Sequence[str]) -> int:
    provider = existing(this_checkout())
    is_ours = provider is None or not provider.status().usable
    try:
        code = _program(*_LOCAL_CLUSTER, "up", "--simulated-nodes", NODES, "--provider", "native")
        return code or _program(*place.inside(), sys.executable, "-m", module, *words)
    finally:
        if is_ours:
            _program(*_LOCAL_CLUSTER, "down")


def _program(*words: object) -> int:
    return commands.run_in_foreground(words, env={"KUBECONFIG": str(this_checkout().kubeconfig)})
