"""`python -m tests.bench`: a cluster of simulated nodes, Muster and whom it is compared with on it, and tables.

A cluster that had to be brought up for it is taken down again, whatever happens.
"""

from __future__ import annotations

import argparse
import os
import sys

from local_cluster import commands, go_builds, interrupts
from local_cluster.checkout import this_checkout
from local_cluster.errors import ClusterError
from local_cluster.progress import Progress
from local_cluster.providers import existing
from tests.bench import measure, place

NODES = 200
_LOCAL_CLUSTER = (sys.executable, "-m", "local_cluster")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    measure.add_options(parser)
    given = parser.parse_args()
    interrupts.install()
    try:
        return _run(given.peers)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except interrupts.Interrupted as interrupt:
        print(f"stopped by {interrupt}", file=sys.stderr)
        return 128 + interrupt.signum


def _run(peers: list[str]) -> int:
    _build(peers)
    provider = existing(this_checkout())
    is_ours = provider is None or not provider.status().usable
    try:
        code = _program(*_LOCAL_CLUSTER, "up", "--simulated-nodes", NODES, "--provider", "native")
        return code or _program(*place.inside(), sys.executable, "-m", "tests.bench.measure", *sys.argv[1:])
    finally:
        if is_ours:
            _program(*_LOCAL_CLUSTER, "down")


def _build(peers: list[str]) -> None:
    """Before there is a cluster, which would suffer from it; minutes at the first time, nothing later."""
    missing = [build for name in peers if not go_builds.is_built(build := measure.PEERS[name].build)]
    progress = Progress({f"build {build.name}": build.seconds for build in missing})
    for build in missing:
        with progress.step(f"build {build.name}"):
            go_builds.build(build)


def _program(*words: object) -> int:
    return commands.run_in_foreground(words, env={"KUBECONFIG": str(this_checkout().kubeconfig)})


if __name__ == "__main__":
    os.chdir(place.ROOT)
    sys.exit(main())
