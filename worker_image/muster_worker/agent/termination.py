"""The agent's last word: its final state, small enough for the kubelet to take into the pod's status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LIMIT = 4000
"""Bytes; the kubelet keeps 4096 of the termination message."""


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Writes the state to the termination log, where there is one."""
    if not path.exists():
        return
    try:
        path.write_bytes(fit(state))
    except OSError:
        return  # a log that cannot be written must not change the exit code


def fit(state: Mapping[str, Any], limit: int = LIMIT) -> bytes:
    """The state as compact JSON of at most `limit` bytes.

    What is of single pods goes first, which was told while they ran; then long messages, old restarts, metrics.
    """
    document = dict(state)
    text = _compact(document)
    if len(text) > limit:
        document |= {"members": [], "stragglers": None, "preflight": None}
        text = _compact(document)
    for length in (400, 150, 60):
        if len(text) <= limit:
            return text
        document = _shorten(document, length)
        text = _compact(document)
    while len(text) > limit and document.get("restarts"):
        document["restarts"] = document["restarts"][1:]
        text = _compact(document)
    if len(text) > limit:
        document["metrics"] = {}
        text = _compact(document)
    return text


def _shorten(document: dict[str, Any], length: int) -> dict[str, Any]:
    short = dict(document)
    if isinstance(short.get("error"), str):
        short["error"] = _cut(short["error"], 2 * length)
    short["restarts"] = [{**restart, "message": _cut(restart["message"], length)} for restart in short["restarts"]]
    return short


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _compact(document: Mapping[str, Any]) -> bytes:
    # Of a name of a file that is no text, what UTF-8 does not hold is escaped as JSON has it.
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")
