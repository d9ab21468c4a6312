"""The model that a job starts from: another job's, once there is one.

What was found is recorded with the admission and never looked up again: a successor of a lost worker starts from the
same model, and the other job may be gone by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan import conditions
from muster.plan.model import Admission

if TYPE_CHECKING:
    from muster.plan.model import Manifest
    from muster.plan.training.view import View

KIND = "TrainingJob"
FIELD = "spec.initialModel.fromTrainingJob"


def named(resource: Manifest) -> tuple[tuple[str, str], ...]:
    """Return kind and name of the resource whose model a TrainingJob, valid or not, asks for."""
    spec = resource.get("spec")
    wanted = spec.get("initialModel") if isinstance(spec, dict) else None
    name = wanted.get("fromTrainingJob") if isinstance(wanted, dict) else None
    return ((KIND, name),) if isinstance(name, str) else ()


def used(view: View) -> Manifest | None:
    """Return what the status is to say of the model; None where the job asks for none, or there is none yet."""
    other = _other(view)
    if "initialModel" in view.recorded or other is None or lacking(view) is not None:
        recorded: Manifest | None = view.recorded.get("initialModel")
        return recorded
    storage, model = other["spec"]["storage"], other["status"]["model"]
    below = storage.get("path")
    return {
        "fromTrainingJob": other["metadata"]["name"],
        "claimName": storage["persistentVolumeClaim"]["claimName"],
        "path": f"{below.rstrip('/')}/{model['path']}" if below else model["path"],
        "sha256": model["sha256"],
    }


def lacking(view: View) -> Admission | None:
    """Return why the job cannot start for want of a model; None where it can."""
    wanted = view.job.spec.initial_model
    if wanted is None or "initialModel" in view.recorded:
        return None
    name, other = wanted.from_training_job, _other(view)
    if other is None:
        return _wait("TrainingJobNotFound", f"there is no TrainingJob {name}: create it")
    status = other.get("status") or {}
    if conditions.is_true(status.get("conditions", []), "Failed"):
        return _wait("InitialModelMissing", f"TrainingJob {name} has failed and left no model: name another")
    if not conditions.is_true(status.get("conditions", []), "Complete"):
        return _wait("WaitingForModel", f"TrainingJob {name} is {status.get('phase', 'Pending')}: no model yet")
    if "sha256" not in (status.get("model") or {}):
        return _wait("InitialModelMissing", f"TrainingJob {name} has succeeded and left no model: name one of a recipe")
    if "persistentVolumeClaim" not in (other["spec"].get("storage") or {}):
        sentence = f"the model of TrainingJob {name} is on no volume that others reach: give that job a claim"
        return _wait("InitialModelMissing", f"{sentence} in spec.storage.persistentVolumeClaim")
    return None


def _other(view: View) -> Manifest | None:
    wanted = view.job.spec.initial_model
    return None if wanted is None else view.named.get((KIND, wanted.from_training_job))


def _wait(reason: str, message: str) -> Admission:
    return Admission(granted=False, reason=reason, message=f"{FIELD}: {message}")
