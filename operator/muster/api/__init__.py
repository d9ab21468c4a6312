"""The two resources as pydantic models, the single source of the CRDs in crds/."""

from muster.api.common import API_VERSION, GROUP, OPERATOR, VERSION, Metadata
from muster.api.modeldeployment import ModelDeployment, ModelDeploymentSpec
from muster.api.modeldeployment_status import ModelDeploymentStatus
from muster.api.trainingjob import TrainingJob, TrainingJobSpec
from muster.api.trainingjob_status import TrainingJobStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "OPERATOR",
    "VERSION",
    "Metadata",
    "ModelDeployment",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "TrainingJob",
    "TrainingJobSpec",
    "TrainingJobStatus",
]
