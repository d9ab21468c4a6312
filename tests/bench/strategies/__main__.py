"""`python -m tests.bench.strategies`: runs it in the worker image, prints the tables, and records them if told to."""

from __future__ import annotations

import sys
from typing import Any

from tests.bench import rounds
from tests.bench.report import STRATEGIES
from tests.bench.strategies import figures, measured


def main() -> int:
    return rounds.run("strategies", __doc__, "tests.bench.strategies.measure", 5, STRATEGIES, _told)


def _told(found: dict[str, Any]) -> str:
    return (
        f"{figures.of_strategies(found[measured.STRATEGIES])}\n\n"
        "Rates are steps a second, medians of the rounds; a ratio is Muster's to the other's in the same round: the"
        " median, and from the least to the most.\n\n"
        f"{figures.of_servers(found[measured.SERVERS])}\n\n"
        f"{figures.of_checkpoints(found[measured.CHECKPOINTS])}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
