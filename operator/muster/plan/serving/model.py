"""Which trained model a deployment serves: found once, when its revision is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan import trained_model
from muster.plan.trained_model import Missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.api import ModelDeployment
    from muster.plan.model import Manifest

FIELD = "spec.model.fromTrainingJob"


def named(resource: Manifest) -> tuple[tuple[str, str], ...]:
    """Return kind and name of the resource whose model a ModelDeployment, valid or not, asks for."""
    spec = resource.get("spec")
    wanted = spec.get("model") if isinstance(spec, dict) else None
    name = wanted.get("fromTrainingJob") if isinstance(wanted, dict) else None
    return ((trained_model.KIND, name),) if isinstance(name, str) else ()


def find(deployment: ModelDeployment, others: Mapping[tuple[str, str], Manifest]) -> dict[str, str] | Missing:
    """Return the model as `status.model` has it, or why there is none."""
    wanted = deployment.spec.model
    checksum = {"sha256": wanted.sha256} if wanted.sha256 is not None else {}
    if wanted.from_training_job is not None:
        return _of_job(wanted.from_training_job, others, checksum)
    if wanted.uri is not None:
        return {"uri": wanted.uri} | checksum
    claim = wanted.persistent_volume_claim
    assert claim is not None, "the schema asks for one of the three"
    return {"claimName": claim.claim_name} | ({"path": claim.path} if claim.path is not None else {}) | checksum


def _of_job(
    name: str, others: Mapping[tuple[str, str], Manifest], checksum: dict[str, str]
) -> dict[str, str] | Missing:
    job = others.get((trained_model.KIND, name))
    lacking = trained_model.missing(name, job)
    if lacking is not None:
        return Missing(lacking.reason, f"{FIELD}: {lacking.message}")
    assert job is not None, "else it would be missing"
    found = trained_model.found(job)
    if checksum.get("sha256", found["sha256"]) != found["sha256"]:
        sentence = f"the model of TrainingJob {name} has the checksum {found['sha256']}"
        return Missing("WrongChecksum", f"spec.model.sha256: {sentence}: write that, or leave it out")
    return found
