"""`python -m tests.bench.deployments`: many ModelDeployments on simulated nodes, and a table."""

from __future__ import annotations

import argparse
import sys

from tests.bench.bringing import bring_about
from tests.bench.deployments import measure

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.deployments", description=__doc__)
    measure.add_options(parser)
    parser.parse_args()
    sys.exit(bring_about("tests.bench.deployments.measure", sys.argv[1:]))
