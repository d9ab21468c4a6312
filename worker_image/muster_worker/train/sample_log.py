"""An audit of which samples were trained on, off unless MUSTER_SAMPLE_LOG names a directory. Needs no torch.

Each rank appends JSON lines to a file of its own: one when it starts, one for every step it has completed.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class SampleLog:
    def __init__(self, directory: Path | None, *, run_id: str, rank: int, world_size: int, step: int) -> None:
        """`step`: how many steps the state has that training goes on from. None: nothing is logged."""
        self._file = None
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(directory / f"{run_id}-{rank}.jsonl", flags, 0o644)
        self._append(
            {"runId": run_id, "rank": rank, "worldSize": world_size, "resumedFromStep": step, "at": time.time()}
        )

    def write(self, *, epoch: int, step: int, samples: Sequence[int]) -> None:
        """`samples`: indices in the training set that this rank has used for `step`."""
        if self._file is not None:
            self._append({"epoch": epoch, "step": step, "samples": list(samples)})

    def _append(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        os.write(self._file, json.dumps(line).encode() + b"\n")


def surviving_epochs(directory: Path) -> dict[int, list[int]]:
    """The samples that made the parameters, by epoch (counted from 1): what was trained and then lost is left out.

    A step counts in the last run that made it on every rank, before the step that the next run went on from. What ranks
    write meanwhile is left out.
    """
    runs: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    texts = [path.read_text() for path in directory.glob("*.jsonl")]  # all at once: parsing takes longer
    for text in texts:
        lines = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
        if lines:
            runs[lines[0]["runId"]].append(lines)
    ordered = sorted(runs.values(), key=lambda files: min(lines[0]["at"] for lines in files))
    epochs: dict[int, list[int]] = defaultdict(list)
    end: float = float("inf")
    for files in reversed(ordered):
        start = files[0][0]["resumedFromStep"]
        end = min(end, _made_by_all(files))
        for line in (line for lines in files for line in lines[1:]):
            if start < line["step"] <= end:
                epochs[line["epoch"]] += line["samples"]
        end = min(end, start)
    return dict(epochs)


def _made_by_all(files: Sequence[list[dict[str, Any]]]) -> int:
    """The last step of a run that all of its ranks have completed."""
    first = files[0][0]
    if len(files) < first["worldSize"]:
        return int(first["resumedFromStep"])
    return min(int(lines[-1].get("step", first["resumedFromStep"])) for lines in files)
