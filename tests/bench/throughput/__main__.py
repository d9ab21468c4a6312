"""`python -m tests.bench.throughput`: runs it in the worker image, prints the table, and records it if told to."""

from __future__ import annotations

import sys
from typing import Any

from tests.bench import rounds
from tests.bench.report import THROUGHPUT, table
from tests.bench.throughput import figures


def main() -> int:
    return rounds.run("throughput", __doc__, "tests.bench.throughput.alternate", 9, THROUGHPUT, _told)


def _told(found: dict[str, Any]) -> str:
    return (
        f"{table(figures.head(), [figures.row(training, rates) for training, rates in found.items()])}\n\n"
        "Samples a second are medians of the rounds. A ratio is Muster's to the other's in the same round: the median, "
        "and from the least to the most.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
