"""What everything that is made for a job is called, and what says whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.api import TrainingJob


def group_name(job: TrainingJob) -> str:
    """Of what its pods have in common. Not the job's own name: the Service of a ModelDeployment of that name has it."""
    return f"{job.metadata.name}-workers"


def pod_name(job: TrainingJob, rank: int, attempt: int) -> str:
    """A name of its own for every attempt: what stands twice is refused by the API server itself."""
    return f"{job.metadata.name}-{rank}-{attempt}"


def labels(job: TrainingJob) -> dict[str, str]:
    return {
        "muster.dev/training-job": job.metadata.name,
        "muster.dev/job-uid": job.metadata.uid,
        "app.kubernetes.io/name": "muster-worker",
        "app.kubernetes.io/instance": job.metadata.name,
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/managed-by": "muster",
    }
