"""`python -m tests.bench.throughput`: runs it in the worker image, prints the table, and records it if told to."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from local_cluster import commands, interrupts
from tests.bench.place import ROOT
from tests.bench.report import THROUGHPUT, machine, now, record, table
from tests.bench.throughput import figures

_FOUND = ROOT / "build" / "bench" / "throughput.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.throughput", description=__doc__)
    parser.add_argument("--image", required=True, help="the worker image")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="how often each side runs (9)")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="put the table in the place of that in this document"
    )
    given = parser.parse_args()
    interrupts.install()
    _FOUND.parent.mkdir(parents=True, exist_ok=True)
    inside = ("python3", "-m", "tests.bench.throughput.alternate", given.rounds, _FOUND)
    run = (sys.executable, "-m", "local_cluster", "run-in-image", given.image, "--", *inside)
    try:
        code = commands.run_in_foreground(run)
    except interrupts.Interrupted as interrupt:
        print(f"stopped by {interrupt}", file=sys.stderr)
        return 128 + interrupt.signum
    if code:
        return code
    rows = [figures.row(training, rates) for training, rates in json.loads(_FOUND.read_text()).items()]
    text = (
        f"{now()}, `make bench-throughput`, {machine()}; {given.rounds} rounds.\n\n"
        f"{table(figures.head(), rows)}\n\n"
        "Samples a second are medians of the rounds. A ratio is Muster's to the other's in the same round: the median, "
        "and from the least to the most.\n"
    )
    print(f"\n{text}")
    if given.record is not None:
        record(given.record, THROUGHPUT, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
