"""The model that a TrainingJob made, for others that name the job: where it is, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan import conditions

if TYPE_CHECKING:
    from muster.plan.model import Manifest

KIND = "TrainingJob"


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no model, or not yet."""

    reason: str
    message: str
    phase: str = "Pending"
    """Of whoever has nothing else to do meanwhile. Failed: there will be none."""


def missing(name: str, job: Manifest | None) -> Missing | None:
    """Return why the job has no model that others could read; None where it has one."""
    if job is None:
        return Missing("TrainingJobNotFound", f"there is no TrainingJob {name}: create it")
    status = job.get("status") or {}
    if conditions.is_true(status.get("conditions", []), "Failed"):
        return Missing("ModelMissing", f"TrainingJob {name} has failed and left no model: name another")
    if not conditions.is_true(status.get("conditions", []), "Complete"):
        return Missing("WaitingForModel", f"TrainingJob {name} is {status.get('phase', 'Pending')}: no model yet")
    if "sha256" not in (status.get("model") or {}):
        return Missing("ModelMissing", f"TrainingJob {name} has succeeded and left no model: name one of a recipe")
    if "persistentVolumeClaim" not in (job["spec"].get("storage") or {}):
        sentence = f"the model of TrainingJob {name} is on no volume that others reach: give that job a claim"
        return Missing("ModelMissing", f"{sentence} in spec.storage.persistentVolumeClaim")
    return None


def found(job: Manifest) -> dict[str, str]:
    """Return the model of a job that has one, as the status of who uses it is to say."""
    storage, model = job["spec"]["storage"], job["status"]["model"]
    below = storage.get("path")
    return {
        "fromTrainingJob": job["metadata"]["name"],
        "claimName": storage["persistentVolumeClaim"]["claimName"],
        "path": f"{below.rstrip('/')}/{model['path']}" if below else model["path"],
        "sha256": model["sha256"],
    }


def compression_step(report: Any) -> dict[str, Any]:
    """Return what a step did in the status's words; nothing, where that is no report of one.

    The worker counts in bytes and seconds.
    """
    if not (isinstance(report, dict) and isinstance(report.get("step"), dict) and report["step"]):
        return {}
    said = {name: value for name, value in report.items() if isinstance(value, int | float)}
    told: dict[str, Any] = {"step": next(iter(report["step"]))}
    for when in ("Before", "After"):
        told |= {f"{name}{when}": int(said[f"{name}{when}"]) for name in ("bytes", "memory") if f"{name}{when}" in said}
        for name, factor, shown in (("latency", 1000, "latencyMilliseconds"), ("accuracy", 1, "accuracy")):
            value = said.get(f"{name}{when}")
            told |= {} if value is None else {f"{shown}{when}": _number(factor * value)}
    return told


def _number(value: float) -> str:
    return f"{value:.4g}"
