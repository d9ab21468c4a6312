"""The very ranks that the agent starts, for torchrun: `ranks.py MODULE:CLASS`."""

from __future__ import annotations

import sys

from muster_worker.train.main import run
from tests.bench.throughput import libuv

if __name__ == "__main__":
    libuv.do_without()
    run(sys.argv[1])
