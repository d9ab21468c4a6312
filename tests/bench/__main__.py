"""`python -m tests.bench`: Muster and whom it is compared with on simulated nodes, and tables."""

from __future__ import annotations

import argparse
import sys

from local_cluster import go_builds
from local_cluster.progress import Progress
from tests.bench import measure
from tests.bench.bringing import bring_about


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    measure.add_options(parser)
    given = parser.parse_args()
    return bring_about("tests.bench.measure", sys.argv[1:], lambda: _build(given.peers))


def _build(peers: list[str]) -> None:
    """Before there is a cluster, which would suffer from it; minutes at the first time, nothing later."""
    missing = [build for name in peers if not go_builds.is_built(build := measure.PEERS[name].build)]
    progress = Progress({f"build {build.name}": build.seconds for build in missing})
    for build in missing:
        with progress.step(f"build {build.name}"):
            go_builds.build(build)


if __name__ == "__main__":
    sys.exit(main())
