"""metav1.Condition: a list of them by type, and the time at which each last changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.timestamps import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.model import Manifest


def find(conditions: Iterable[Manifest], kind: str) -> Manifest | None:
    return next((condition for condition in conditions if condition["type"] == kind), None)


def is_true(conditions: Iterable[Manifest], kind: str) -> bool:
    condition = find(conditions, kind)
    return condition is not None and condition["status"] == "True"


def merged(earlier: Iterable[Manifest], *said: Manifest) -> list[Manifest]:
    """Return the earlier conditions with what is said now in their places; what is new comes last."""
    by_type = {known["type"]: known for known in earlier}
    return list((by_type | {new["type"]: new for new in said}).values())


def condition(
    earlier: Iterable[Manifest],
    kind: str,
    *,
    holds: bool | None,
    reason: str,
    message: str,
    generation: int,
    now: float,
) -> dict[str, Any]:
    """Return the condition as it is now (Unknown with None); `lastTransitionTime` moves only when the status does."""
    status = {True: "True", False: "False", None: "Unknown"}[holds]
    before = find(earlier, kind)
    same = before is not None and before["status"] == status
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before and same else to_timestamp(now),
    }
