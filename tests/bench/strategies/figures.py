"""From what was measured to ratios and the tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tests.bench.report import table
from tests.bench.strategies.measured import ALL_REDUCE, LIGHTNING, MUSTER, ONE, TORCHRUN
from tests.bench.throughput.figures import Ratio

BEST, MOST = 1.0, 0.05
_MB = 1e6

Rounds: TypeAlias = Sequence[Mapping[str, float]]
Rows: TypeAlias = Mapping[str, Mapping[str, Rounds]]
"""By row and side what each round gave."""


def of_strategies(rows: Rows) -> str:
    head = "ranks", MUSTER, "speed-up", "MB a step", TORCHRUN, "ratio", f"≥ {BEST}", LIGHTNING, "ratio", f"≥ {BEST}"
    return table(head, [_strategy(name, sides, rows[ONE]) for name, sides in rows.items()])


def _strategy(name: str, sides: Mapping[str, Rounds], alone: Mapping[str, Rounds]) -> list[str]:
    speed_up = Ratio.of(_rates(sides[MUSTER]), _rates(alone[MUSTER]))
    cells = [name, _rate(sides[MUSTER]), f"{speed_up.median:.2f}", _megabytes(sides[MUSTER])]
    for other in TORCHRUN, LIGHTNING:
        if other in sides:
            ratio = Ratio.of(_rates(sides[MUSTER]), _rates(sides[other]))
            cells += [_rate(sides[other]), str(ratio), "met" if ratio.median >= BEST else "**missed**"]
        else:
            cells += ["", "", ""]
    return cells


def of_servers(rows: Rows) -> str:
    head = "training", "two workers with", "steps a second", f"ratio to {ALL_REDUCE}", "MB a step"
    return table(
        head,
        [
            [
                training,
                name,
                _rate(rounds),
                str(Ratio.of(_rates(rounds), _rates(sides[ALL_REDUCE]))),
                _megabytes(rounds),
            ]
            for training, sides in rows.items()
            for name, rounds in sides.items()
        ],
    )


def of_checkpoints(rows: Rows) -> str:
    head = "training", "checkpoints", "steps a second", "a step takes longer by", f"≤ {MOST:.0%}"
    return table(
        head, [_saving(training, *one, sides["none"]) for training, sides in rows.items() for one in sides.items()]
    )


def _saving(training: str, name: str, rounds: Rounds, none: Rounds) -> list[str]:
    if name == "none":
        return [training, name, _rate(rounds), "", ""]
    ratio = Ratio.of(_rates(none), _rates(rounds))
    verdict = ("met" if ratio.median <= 1 + MOST else "**missed**") if name == "asynchronous" else ""
    longer = f"{ratio.median - 1:.1%} ({ratio.least - 1:.1%} to {ratio.most - 1:.1%})"
    return [training, name, _rate(rounds), longer, verdict]


def _rates(rounds: Rounds) -> list[float]:
    return [one["rate"] for one in rounds]


def _rate(rounds: Rounds) -> str:
    return f"{statistics.median(_rates(rounds)):.2f}"


def _megabytes(rounds: Rounds) -> str:
    return f"{statistics.median(one['bytes'] for one in rounds) / _MB:.2f}"
