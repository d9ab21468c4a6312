"""When a changed status is written: at once, but for what is measured, which changes all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.timestamps import to_epoch, to_timestamp

if TYPE_CHECKING:
    from muster.plan.model import Manifest
    from muster.plan.serving.view import View

INTERVAL = 10.0
"""Seconds between two writes that only bring measurements."""


def settle(view: View, status: Manifest) -> tuple[Manifest | None, float | None]:
    """Return what to write now, and after how many seconds to look again for what is put off."""
    if status == view.recorded:
        return None, None
    if _lasting(status) != _lasting(view.recorded):
        return _dated(view, status), None
    if status.get("metrics") == view.recorded.get("metrics"):
        return None, None
    left = to_epoch(view.recorded["measuredAt"]) + INTERVAL - view.now if "measuredAt" in view.recorded else 0.0
    return (None, left) if left > 0 else (_dated(view, status), None)


def _lasting(status: Manifest) -> Manifest:
    return {name: value for name, value in status.items() if name not in {"metrics", "measuredAt"}}


def _dated(view: View, status: Manifest) -> Manifest:
    return {**status, "measuredAt": to_timestamp(view.now)} if "metrics" in status else status
