"""The two resources as pydantic models, the single source of the CRDs in crds/."""

from muster.api.common import API_VERSION, GROUP, OPERATOR, VERSION, Metadata
from muster.api.trainingjob import KIND, TrainingJob, TrainingJobSpec
from muster.api.trainingjob_status import TrainingJobStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "OPERATOR",
    "VERSION",
    "Metadata",
    "TrainingJob",
    "TrainingJobSpec",
    "TrainingJobStatus",
]
