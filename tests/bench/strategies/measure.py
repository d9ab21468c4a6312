"""Runs all sides in turn, from within the worker image with Lightning: `measure.py ROUNDS FILE`; FILE gets JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.strategies.measured import SERVERS, told
from tests.bench.strategies.sides import tables


def main() -> None:
    rounds, file = int(sys.argv[1]), Path(sys.argv[2])
    given = tables()
    found: dict[str, Any] = {
        table: {row: {name: [] for name in sides} for row, sides in rows.items()} for table, rows in given.items()
    }
    for round_ in range(rounds):
        for table, rows in given.items():
            for row, sides in rows.items():
                # Every other round goes backwards, so that a machine that gets slower favours nobody.
                for name in list(sides)[:: 1 if round_ % 2 == 0 else -1]:
                    one = told(sides[name](), servers=table == SERVERS and "server" in name)
                    found[table][row][name].append(one)
                    print(
                        f"round {round_ + 1} of {rounds}: {table}: {row}: {name}: {one['rate']:.2f} steps/s", flush=True
                    )
    file.write_text(json.dumps(found))


if __name__ == "__main__":
    begun = time.monotonic()
    main()
    print(f"done after {time.monotonic() - begun:.0f} s")
