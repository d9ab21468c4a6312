"""`python -m tests.faults`: a random history of jobs on simulated nodes, with operators that are killed."""

from __future__ import annotations

import argparse
import sys

from tests.bench.bringing import bring_about
from tests.faults import measure

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    measure.add_options(parser)
    parser.parse_args()
    sys.exit(bring_about("tests.faults.measure", sys.argv[1:]))
