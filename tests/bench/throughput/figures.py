"""From times to samples a second, their ratios and the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

GOAL = 0.98
MUSTER, SAME_RANKS, SCRIPT = "Muster", "torchrun, the same ranks", "torchrun, a plain script"
SIDES = (MUSTER, SAME_RANKS, SCRIPT)
BATCH = 64

Rates: TypeAlias = Mapping[str, Sequence[float]]
"""By side, one a round."""


@dataclass(frozen=True)
class Ratio:
    """Of two sides that ran one after the other, over all rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f} to {self.most:.3f})"


def samples_per_second(times: Mapping[str, float], batch: int = BATCH) -> float:
    return times["steps"] * batch / times["seconds"]


def order(round_: int) -> tuple[str, ...]:
    """Every other round goes backwards, so that a machine that gets slower favours nobody."""
    return SIDES if round_ % 2 == 0 else SIDES[::-1]


def head() -> list[str]:
    return ["training", *SIDES[:2], "ratio", f"≥ {GOAL}", SCRIPT, "ratio"]


def row(training: str, rates: Rates) -> list[str]:
    """Medians over the rounds, and the ratios of Muster to each of the others with their spread."""
    muster, same, script = (statistics.median(rates[side]) for side in SIDES)
    to_same, to_script = (Ratio.of(rates[MUSTER], rates[side]) for side in SIDES[1:])
    verdict = "met" if to_same.median >= GOAL else "**missed**"
    return [training, f"{muster:,.0f}", f"{same:,.0f}", str(to_same), verdict, f"{script:,.0f}", str(to_script)]
