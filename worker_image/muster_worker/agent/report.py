"""The progress that ranks write as JSON lines to MUSTER_REPORT, read as it grows."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LOOK_EVERY = 0.1
LONGEST_LINE = 1 << 16
FREE_EVERY = 4 << 20
_PROGRESS = ("epoch", "totalEpochs", "step", "totalSteps", "resumedFromStep")
_OF_RANKS = {"stragglers": "slowdown", "preflight": "flops"}
"""What is said of single ranks, and a figure that each of them must have."""
_FREE_BUT_KEEP_SIZE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


@dataclass(slots=True)
class Progress:
    """What the ranks of this pod have said so far, merged; times are seconds since the epoch."""

    progress: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    stragglers: list[dict[str, Any]] | None = None
    """`rank` and `slowdown` of each rank that others wait for; None where nobody looks."""
    preflight: list[dict[str, Any]] | None = None
    """`rank`, `flops`, `latency`, `bandwidth` of one rank of each pod."""
    error: str | None = None

    def restarted(self) -> None:
        """The ranks start anew: their first step is still to come."""
        self.progress.pop("firstStepAt", None)
        self.progress.pop("resumedFromStep", None)
        self.error = None
        self.stragglers = self.preflight = None

    def merge(self, line: Mapping[str, Any], now: float) -> None:
        """Takes over one line, read at `now`. What is of the wrong type is left out."""
        for key, value in line.items():
            if key in _PROGRESS:
                if _is_number(value):
                    self.progress[key] = int(value)
                    self.progress["at"] = now
            elif key == "checkpoint":
                self.checkpoint = {**value, "at": now} if isinstance(value, dict) else self.checkpoint
            elif key == "model":
                self.model = dict(value) if isinstance(value, dict) else self.model
            elif key in _OF_RANKS:
                setattr(self, key, _of_ranks(value, _OF_RANKS[key]))
            elif key == "error":
                self.error = str(value) if value else None
            else:
                self._measured(key, value)
        if _is_number(line.get("step")):
            self.progress.setdefault("firstStepAt", now)

    def _measured(self, name: str, value: object) -> None:
        """None: it is no number any more, and what it was when it was one is not told as if it were."""
        if _is_number(value):
            self.metrics[name] = float(value)
        elif value is None:
            self.metrics.pop(name, None)


class ReportReader:
    """Reads what is appended to a file, in a thread of its own, and hands over each line as a dict.

    The file is made anew. Disk space of what was read is given back as the job goes on for weeks.
    """

    def __init__(self, path: Path, take: Callable[[Mapping[str, Any], float], None]) -> None:
        self._take = take
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pending = b""
        self._read = self._freed = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def catch_up(self) -> None:
        """Reads whatever was written until now."""
        with self._lock:
            if os.fstat(self._descriptor).st_size < self._read:  # a script has opened it to write it anew
                self._read, self._freed, self._pending = 0, 0, b""
            while piece := os.pread(self._descriptor, 1 << 16, self._read):
                self._read += len(piece)
                *lines, self._pending = (self._pending + piece).split(b"\n")
                for line in lines:
                    self._parse(line)
                if len(self._pending) > LONGEST_LINE:
                    self._pending = b""
            self._free()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self.catch_up()
        os.close(self._descriptor)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            self.catch_up()

    def _parse(self, line: bytes) -> None:
        with contextlib.suppress(ValueError, OverflowError, RecursionError):  # numbers and lists beyond all measure
            document = json.loads(line)
            if isinstance(document, dict):
                self._take(document, time.time())

    def _free(self) -> None:
        if self._read - self._freed < FREE_EVERY:
            return
        # The ranks may hold the file open for appending: it can be neither renamed nor cut.
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None, use_errno=True)
            libc.fallocate(self._descriptor, _FREE_BUT_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(self._read))
        self._freed = self._read


def _of_ranks(value: object, figure: str) -> list[dict[str, Any]] | None:
    """What of it names a rank and has this figure."""
    if not isinstance(value, list):
        return None
    named = (one for one in value if isinstance(one, dict) and isinstance(one.get("rank"), int))
    return [one for one in named if _is_number(one.get(figure))]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
