"""The tables and sides by their names, and what is kept of a side that has run. Also read within the worker image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STRATEGIES, SERVERS, CHECKPOINTS = "strategies", "parameter servers", "checkpoints"
MUSTER, TORCHRUN, LIGHTNING = "Muster", "torchrun, a plain script", "Lightning"
ONE = "one process"
ALL_REDUCE = "all-reduce"
SERVED = 20
"""Steps that are timed where there are servers."""
SAVING = 6
"""Checkpoints that are begun while steps are timed."""


def told(found: Sequence[Mapping[str, Any]], *, servers: bool) -> dict[str, float]:
    """Steps a second of the first rank, and the bytes that all sent in a step; to servers, what they also got."""
    first = found[0]
    sent = sum(one["sent"] + (one["received"] if servers else 0) for one in found)
    return {"rate": first["steps"] / first["seconds"], "bytes": sent / first["steps"]}
