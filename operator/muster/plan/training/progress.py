"""How far a job is, in the status's words: progress, metrics, checkpoint and model as the group reports them.

Measured floats are strings, because the API has no floats that survive every client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan import trained_model
from muster.plan.timestamps import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.plan.model import Manifest

MEASURED = ("progress", "metrics", "metric", "checkpoint", "stragglers")

_CHECKPOINT = {"step": int, "bytes": int, "path": str}
_MODEL = _CHECKPOINT | {"sha256": str}

# The measurement that tells most of a training, the first that there is: for the column Metric.
TELLING = ("validationAccuracy", "accuracy", "validationLoss", "loss")


def measured(group: Manifest, recorded: Manifest) -> dict[str, Any]:
    """Return the measured parts of the status and the model; what the group does not say (yet) stays as recorded."""
    metrics = {name: _number(value) for name, value in (group.get("metrics") or {}).items()} or recorded.get("metrics")
    telling = [f"{name} {metrics[name]}" for name in TELLING if name in metrics] if metrics else []
    said = {
        "progress": _progress(group.get("progress") or {}),
        "metrics": metrics,
        "checkpoint": _checkpoint(group.get("checkpoint") or {}),
        "model": _model(group.get("model") or {}),
    }
    kept = {name: said[name] or recorded[name] for name in said if said[name] or name in recorded}
    return kept | ({"metric": telling[0]} if telling else {}) | _stragglers(group, recorded)


def _stragglers(group: Manifest, recorded: Manifest) -> dict[str, Any]:
    """Return who slows the others down; nobody any more, where the group says so."""
    told = group.get("stragglers")
    if told is None:
        return {"stragglers": recorded["stragglers"]} if recorded.get("stragglers") else {}
    slow: dict[str, float] = {}
    for one in told:  # a pod may have several such ranks
        slow[one["pod"]] = max(one["slowdown"], slow.get(one["pod"], 0.0))
    said = [{"pod": pod, "slowdown": _number(slowdown)} for pod, slowdown in slow.items()]
    return {"stragglers": said} if said else {}


def _progress(progress: Mapping[str, Any]) -> dict[str, Any]:
    step, total, at = progress.get("step"), progress.get("totalSteps"), progress.get("at")
    if step is None or at is None:
        return {}
    known = {
        "epoch": progress.get("epoch"),
        "totalEpochs": progress.get("totalEpochs"),
        "step": step,
        "totalSteps": total,
        "reportedAt": to_timestamp(at),
    }
    known["steps"] = f"{step}/{total}" if total else str(step)
    if total:
        left = _seconds_left(progress, step, total)
        known |= {"percent": min(100, 100 * step // total), "secondsLeft": left, "timeLeft": _duration(left)}
    return {name: value for name, value in known.items() if value is not None}


def _seconds_left(progress: Mapping[str, Any], step: int, total: int) -> int | None:
    """Return the time that the remaining steps take at the pace since this attempt's first one."""
    first_at, resumed = progress.get("firstStepAt"), progress.get("resumedFromStep") or 0
    if first_at is None or progress["at"] <= first_at or step <= resumed:
        return 0 if step >= total else None
    seconds_a_step: float = (progress["at"] - first_at) / (step - resumed)
    return round(max(0, total - step) * seconds_a_step)


def _duration(seconds: int | None) -> str | None:
    """Return a length of time as kubectl writes ages: 35s, 1m35s, 2h10m."""
    if seconds is None:
        return None
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m{rest}s" if minutes else f"{rest}s"
    return f"{minutes // 60}h{minutes % 60}m"


def _checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    if not checkpoint:
        return {}
    kept = _of_their_types(checkpoint, _CHECKPOINT)
    return kept | ({"savedAt": to_timestamp(checkpoint["at"])} if checkpoint.get("at") else {})


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    reports = model.get("compression")
    steps = [trained_model.compression_step(report) for report in (reports if isinstance(reports, list) else ())]
    told = [step for step in steps if step]
    return _of_their_types(model, _MODEL) | ({"compression": told} if told else {})


def _of_their_types(said: Mapping[str, Any], types: Mapping[str, type]) -> dict[str, Any]:
    """Return what the status has a field for: a script says what it likes, and the API server takes no other types."""
    return {name: said[name] for name, wanted in types.items() if type(said.get(name)) is wanted}


def _number(value: float) -> str:
    return f"{value:.4g}"
