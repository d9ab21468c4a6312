"""Times between Kubernetes' RFC 3339 strings and seconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime


def to_epoch(timestamp: str) -> float:
    """Return the seconds since the epoch of a time as the API server writes it."""
    return datetime.fromisoformat(timestamp).timestamp()


def to_timestamp(seconds: float) -> str:
    """Return the time as metav1.Time has it: UTC, whole seconds, Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_precise_timestamp(seconds: float) -> str:
    """Return the same with milliseconds, for what is compared with other times of that status."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
