"""`python -m tests.bench.serving`: runs it in its image, prints the tables, and records them if told to."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from local_cluster import commands, interrupts
from tests.bench.place import ROOT
from tests.bench.report import SERVING, machine, now, record, table
from tests.bench.serving import figures
from tests.bench.serving.models import MODELS

_FOUND = ROOT / "build" / "bench" / "serving.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving", description=__doc__)
    parser.add_argument("--image", required=True, help="with torch and the peers: made of tests/bench/serving/image")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="N", help="of load for each figure (10)")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="put the tables in the place of those in this document"
    )
    given = parser.parse_args()
    interrupts.install()
    _FOUND.parent.mkdir(parents=True, exist_ok=True)
    _FOUND.unlink(missing_ok=True)
    inside = ("python3", "-m", "tests.bench.serving.measure", given.seconds, _FOUND)
    load, _, _ = os.getloadavg()
    run = (sys.executable, "-m", "local_cluster", "run-in-image", given.image, "--", *inside)
    try:
        code = commands.run_in_foreground(run)
    except interrupts.Interrupted as interrupt:
        print(f"stopped by {interrupt}", file=sys.stderr)
        return 128 + interrupt.signum
    if code:
        return code
    found = figures.Found.of(json.loads(_FOUND.read_text()))
    text = _text(found, given.seconds, load)
    print(f"\n{text}")
    if given.record is not None:
        record(given.record, SERVING, text)
    return 0


def _text(found: figures.Found, seconds: float, load: float) -> str:
    raw = [
        [
            model.name,
            f"{model.parameters:,}",
            *(f"{found.raw_rate(model.name, batch):,.0f}" for batch in (1, figures.BATCH)),
        ]
        for model in MODELS
    ]
    left_out = "".join(f"\nLeft out: {name}: {why.splitlines()[0]}\n" for name, why in found.left_out.items())
    return (
        f"{now()}, `make bench-serving`, {machine()}; {seconds:g} s each, after a load average of {load:.1f}.\n\n"
        f"{table(figures.GOAL_HEAD, [goal.cells for goal in found.goals])}\n{left_out}\n"
        f"{table(figures.RAW_HEAD, raw)}\n\n"
        f"{table(figures.POINT_HEAD, [figures.point_row(point) for point in found.points])}\n\n"
        "`serve --data N` of the medium model, 16 connections, nothing pinned: this machine has the cores named above,"
        " and the load generator takes some of them.\n\n"
        f"{table(figures.SHARDS_HEAD, figures.shards_rows(found.shards))}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
