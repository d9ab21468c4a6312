"""The model that a job starts from: another job's, once there is one.

What was found is recorded with the admission and never looked up again: a successor of a lost worker starts from the
same model, and the other job may be gone by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan import trained_model
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
    return trained_model.found(other)


def lacking(view: View) -> Admission | None:
    """Return why the job cannot start for want of a model; None where it can."""
    wanted = view.job.spec.initial_model
    if wanted is None or "initialModel" in view.recorded:
        return None
    name, other = wanted.from_training_job, _other(view)
    missing = trained_model.missing(name, other)
    if missing is None:
        return None
    return Admission(granted=False, reason=missing.reason, message=f"{FIELD}: {missing.message}")


def _other(view: View) -> Manifest | None:
    wanted = view.job.spec.initial_model
    return None if wanted is None else view.named.get((KIND, wanted.from_training_job))
