"""Progress for the agent: JSON lines appended to the file MUSTER_REPORT, and the log for people."""

from __future__ import annotations

import json
import math
import os
import time
from typing import TYPE_CHECKING, Any

from muster_worker.train.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LONGEST_LINE = 4096
"""Bytes; longer ones might be torn by other writers. What needs more is told in several."""

SHORTEST_INTERVAL = 0.1
"""Seconds between two lines that may be left out."""


class Report:
    def __init__(self, path: Path | None) -> None:
        """None: nothing is reported."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if path else None
        self._last = -math.inf

    @property
    def due(self) -> bool:
        """Enough time has passed for another ordinary line."""
        return self._file is not None and time.monotonic() - self._last >= SHORTEST_INTERVAL

    def write(self, **fields: Any) -> None:
        """A line, or several; numbers that JSON cannot hold (NaN, infinity) are null. What fits no line is left out.

        Where there is no room for it, training goes on and nobody is told, but of a `model`: raises StorageError.
        """
        if self._file is None:
            return
        self._last = time.monotonic()
        content = {name: None if _unspeakable(value) else value for name, value in fields.items()}
        try:
            for line in _lines(content):
                os.write(self._file, line)
        except OSError as error:
            if "model" in fields:
                raise StorageError(f"MUSTER_REPORT: what was published cannot be told: {error.strerror}") from error

    def error(self, message: str) -> None:
        self.write(error=message[: LONGEST_LINE // 8])


def _lines(content: Mapping[str, Any]) -> Iterator[bytes]:
    whole = _encoded(content)
    if len(whole) <= LONGEST_LINE:
        yield whole
    elif len(content) > 1:
        fields = list(content.items())
        yield from _lines(dict(fields[: len(fields) // 2]))
        yield from _lines(dict(fields[len(fields) // 2 :]))


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _unspeakable(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
