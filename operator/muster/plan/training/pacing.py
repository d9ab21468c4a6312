"""When a changed status is written, so that each write tells something that the next does not make void.

A phase, a condition, an attempt, a restart, and why a worker cannot start: at once. Counts of workers, and the words
that explain a phase: once nothing has happened to the workers for a moment, since those of a gang start and end within
milliseconds of each other. What only grows (step, loss, checkpoint): at most every tenth of the job's age, between
1 and 10 seconds; a young job is watched by a person, a thousand old ones by the API server.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from muster.plan.timestamps import to_epoch
from muster.plan.training.phase import EXPECTED
from muster.plan.training.progress import MEASURED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.plan.model import Manifest
    from muster.plan.training.view import View

SHORTEST_INTERVAL, LONGEST_INTERVAL = 1.0, 10.0
CALM = 5.0
"""Seconds; of which one may be lost, because the API's times are in whole ones. On a busy cluster, the pods of one gang
come seconds apart.
"""

PASSING = {"reason", "message", "replicas", "readyReplicas", "workers"}


def settle(view: View, status: Manifest) -> tuple[Manifest | None, float | None]:
    """Return what to write now, and after how many seconds to look again for what is put off.

    Nothing is written when nothing changed.
    """
    if status == view.recorded:
        return None, None
    left = _can_wait(view, status)
    return (None, left) if left > 0 else (status, None)


def _can_wait(view: View, status: Manifest) -> float:
    if _lasting(status) != _lasting(view.recorded) or _is_new_trouble(view, status):
        return 0.0
    waits = []
    if _without_measured(status) != _without_measured(view.recorded):
        waits.append(_until_calm(view))
    if _measured(status) != _measured(view.recorded):
        waits.append(_until_due(view))
    return min(waits)


def _is_new_trouble(view: View, status: Manifest) -> bool:
    return status["reason"] not in {*EXPECTED, view.recorded.get("reason")}


def _until_calm(view: View) -> float:
    """A moment in the future is some other clock's, and tells nothing.

    On a cluster so busy that all workers run before they are looked at, what rank 0 says when it is asked comes next.
    """
    starts = view.recorded.get("phase") == "Starting" and not view.asked
    if starts and all(member is not None and member.running for member in view.workers.values()):
        return CALM
    changed = max((member.changed for member in view.members), default="")
    since = view.now - to_epoch(changed) if changed else CALM
    return CALM - since if 0 <= since < CALM else 0.0


def _until_due(view: View) -> float:
    """It is a worker's clock that says when it reported last: what is in the future for ours puts nothing off."""
    last = (view.recorded.get("progress") or {}).get("reportedAt")
    since, interval = view.now - to_epoch(last) if last else math.inf, _interval(view)
    return interval - since if 0 <= since < interval else 0.0


def _interval(view: View) -> float:
    start = view.recorded.get("startTime")
    age = view.now - to_epoch(start) if start else 0.0
    return min(LONGEST_INTERVAL, max(SHORTEST_INTERVAL, age / 10))


def _lasting(status: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in _without_measured(status).items() if name not in PASSING}
    conditions = [
        {name: value for name, value in condition.items() if name not in PASSING}
        for condition in status.get("conditions", [])
    ]
    return kept | {"conditions": conditions}


def _without_measured(status: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name not in MEASURED}


def _measured(status: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name in MEASURED}
