"""Runs the sides in turn, from within the worker image: `alternate.py ROUNDS FILE`; FILE gets the rates as JSON.

Each side is two ranks with a thread each, which is what the agent gives them without a CPU limit.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

from tests.bench.throughput import side
from tests.bench.throughput.figures import MUSTER, SAME_RANKS, order, samples_per_second

RANKS = 2
TRAININGS = {"digits": "TimedDigits", "10 million parameters": "TimedPerceptron"}
_RECIPES = "tests.bench.throughput.recipes"
_HERE = Path(__file__).parent


def main() -> None:
    rounds, file = int(sys.argv[1]), Path(sys.argv[2])
    rates: dict[str, dict[str, list[float]]] = {}
    for training, recipe in TRAININGS.items():
        found: dict[str, list[float]] = defaultdict(list)
        for round_ in range(rounds):
            for name in order(round_):
                found[name].append(_rate(name, f"{_RECIPES}:{recipe}"))
                print(
                    f"{training}, round {round_ + 1} of {rounds}: {name}: {found[name][-1]:,.0f} samples/s", flush=True
                )
        rates[training] = found
    file.write_text(json.dumps(rates))


def _rate(name: str, recipe: str) -> float:
    if name == MUSTER:
        found = side.agent(recipe, RANKS)
    else:
        program = _HERE / ("ranks.py" if name == SAME_RANKS else "script.py")
        found = side.torchrun(program, [recipe], RANKS)
    return samples_per_second(found[0])


if __name__ == "__main__":
    begun = time.monotonic()
    main()
    print(f"done after {time.monotonic() - begun:.0f} s")
