"""`python -m tests.bench.generation`: runs it in the worker image, prints the table, and records it if told to."""

from __future__ import annotations

import statistics
import sys
from typing import Any

from tests.bench import rounds
from tests.bench.report import GENERATION, table

_HEAD = "model", "without cache", "with", "ratio", "8 texts at once", "ratio to one after the other"


def main() -> int:
    return rounds.run("generation", __doc__, "tests.bench.generation.rates", 5, GENERATION, _told)


def _told(found: dict[str, Any]) -> str:
    return (
        f"{table(_HEAD, [_row(name, each) for name, each in found.items()])}\n\n"
        "Characters a second are medians of the rounds. A ratio is of the two in the same round: the median, and from"
        " the least to the most.\n"
    )


def _row(name: str, rounds: list[tuple[float, float, float]]) -> tuple[str, ...]:
    without, alone, together = (f"{statistics.median(rates):,.0f}" for rates in zip(*rounds, strict=True))
    of_cache = _ratio([cached / whole for whole, cached, _ in rounds])
    return name, without, alone, of_cache, together, _ratio([at_once / cached for _, cached, at_once in rounds])


def _ratio(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):.2f} ({min(rounds):.2f} to {max(rounds):.2f})"


if __name__ == "__main__":
    sys.exit(main())
