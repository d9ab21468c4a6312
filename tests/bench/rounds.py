"""A benchmark that runs inside of an image, in rounds: its command line, its figures, and where they are kept."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_cluster import commands, interrupts
from tests.bench.place import ROOT
from tests.bench.report import machine, now, record

if TYPE_CHECKING:
    from collections.abc import Callable


def run(name: str, description: str | None, module: str, rounds: int, command: str, told: Callable[[Any], str]) -> int:
    """Return the exit code of `python -m tests.bench.NAME`.

    `module` runs in the worker image, with the number of rounds (`rounds` unless the command line says another) and a
    file for what it has found, as JSON; `told` makes Markdown of that, for the document's part that `command` writes.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{name}", description=description)
    parser.add_argument("--image", required=True, help="the worker image")
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=f"how often each side runs ({rounds})")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="put the table in the place of that in this document"
    )
    given = parser.parse_args()
    interrupts.install()
    found = ROOT / "build" / "bench" / f"{name}.json"
    found.parent.mkdir(parents=True, exist_ok=True)
    paths = f"PYTHONPATH={ROOT / 'worker_image'}:{ROOT}"
    inside = ("python3", "-m", module, given.rounds, found)
    try:
        code = commands.run_in_foreground(
            (sys.executable, "-m", "local_cluster", "run-in-image", given.image, "--env", paths, "--", *inside)
        )
    except interrupts.Interrupted as interrupt:
        print(f"stopped by {interrupt}", file=sys.stderr)
        return 128 + interrupt.signum
    if code:
        return code
    begun = f"{now()}, `make bench-{name}`, {machine()}; rounds: {given.rounds}."
    text = f"{begun}\n\n{told(json.loads(found.read_text()))}"
    print(f"\n{text}")
    if given.record is not None:
        record(given.record, command, text)
    return 0
