"""`python -m tests.bench.generation`: runs it in the worker image, prints the table, and records it if told to."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from local_cluster import commands, interrupts
from tests.bench.place import ROOT
from tests.bench.report import GENERATION, machine, now, record, table

_FOUND = ROOT / "build" / "bench" / "generation.json"
_HEAD = "model", "without cache", "with", "ratio", "8 texts at once", "ratio to one after the other"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.generation", description=__doc__)
    parser.add_argument("--image", required=True, help="the worker image")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each side runs (5)")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="put the table in the place of that in this document"
    )
    given = parser.parse_args()
    interrupts.install()
    _FOUND.parent.mkdir(parents=True, exist_ok=True)
    inside = ("python3", "-m", "tests.bench.generation.rates", given.rounds, _FOUND)
    paths = f"PYTHONPATH={ROOT / 'worker_image'}:{ROOT}"
    run = (sys.executable, "-m", "local_cluster", "run-in-image", given.image, "--env", paths, "--", *inside)
    try:
        code = commands.run_in_foreground(run)
    except interrupts.Interrupted as interrupt:
        print(f"stopped by {interrupt}", file=sys.stderr)
        return 128 + interrupt.signum
    if code:
        return code
    rows = [_row(name, rounds) for name, rounds in json.loads(_FOUND.read_text()).items()]
    text = (
        f"{now()}, `make bench-generation`, {machine()}; {given.rounds} rounds.\n\n{table(_HEAD, rows)}\n\n"
        "Characters a second are medians of the rounds. A ratio is of the two in the same round: the median, and from"
        " the least to the most.\n"
    )
    print(f"\n{text}")
    if given.record is not None:
        record(given.record, GENERATION, text)
    return 0


def _row(name: str, rounds: list[tuple[float, float, float]]) -> tuple[str, ...]:
    without, alone, together = (f"{statistics.median(rates):,.0f}" for rates in zip(*rounds, strict=True))
    of_cache = _ratio([cached / whole for whole, cached, _ in rounds])
    return name, without, alone, of_cache, together, _ratio([at_once / cached for _, cached, at_once in rounds])


def _ratio(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):.2f} ({min(rounds):.2f} to {max(rounds):.2f})"


if __name__ == "__main__":
    sys.exit(main())
