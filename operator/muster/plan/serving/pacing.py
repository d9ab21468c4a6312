"""When a changed status is written: at once, but for counts, which come in swarms, and for what is measured.

A phase, a condition, its reason, a loss, a step: at once. How many groups answer, and the sentence that says so: at
most every other second. Rates and latencies change all the time. The first word waits for the count of room, which is
there a moment later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.timestamps import to_epoch, to_timestamp

if TYPE_CHECKING:
    from muster.plan.model import Manifest
    from muster.plan.serving.view import View

COUNTS, INTERVAL = 2.0, 10.0
"""Seconds between two writes that only bring counts, and that only bring measurements. One of them may be lost, because
the API's times are in whole ones."""

_COUNTS = {"message", "replicas", "readyReplicas", "ready", "updatedReplicas"}
_COUNTS_OF_ROLLOUT = {"updated", "step", "progressedAt"}
_MEASURED, _MEASURED_OF_ROLLOUT = {"metrics", "measuredAt"}, {"requests", "failedRequests", "counted"}


def settle(view: View, status: Manifest, *, asks: bool = False) -> tuple[Manifest | None, float | None]:
    """Return what to write now, and after how many seconds to look again for what is put off.

    `asks`: whether it asks for room.
    """
    if asks and view.admission is None and not view.recorded:
        return None, None
    if _without(status, {"measuredAt"}) == _without(view.recorded, {"measuredAt"}):
        return None, None
    left = 0.0
    if _lasting(status) == _lasting(view.recorded):
        left = _left(view, COUNTS if _counted(status) != _counted(view.recorded) else INTERVAL)
    return (None, left) if left > 0 else ({**status, "measuredAt": to_timestamp(view.now)}, None)


def _left(view: View, interval: float) -> float:
    """Seconds until so many have gone by since the last write. A moment in the future is some other clock's."""
    since = view.now - to_epoch(view.recorded["measuredAt"]) if "measuredAt" in view.recorded else interval
    return interval - since if 0 <= since < interval else 0.0


def _counted(status: Manifest) -> Manifest:
    """Return all but what is measured."""
    return _without(status, _MEASURED) | {"rollout": _without(status.get("rollout") or {}, _MEASURED_OF_ROLLOUT)}


def _lasting(status: Manifest) -> Manifest:
    return _without(status, _MEASURED | _COUNTS) | {
        "rollout": _without(status.get("rollout") or {}, _MEASURED_OF_ROLLOUT | _COUNTS_OF_ROLLOUT),
        "conditions": [_without(one, {"message"}) for one in status.get("conditions", ())],
    }


def _without(manifest: Manifest, names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in names}
