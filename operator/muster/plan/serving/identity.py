"""What everything that is made for a deployment is called, and what says whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.api import ModelDeployment

GROUP = "muster.dev/group"
REVISION = "muster.dev/revision"


def pod_name(deployment: ModelDeployment, group: int, attempt: int) -> str:
    """A name that no other pod of the deployment ever had. Not that of a worker of a TrainingJob of the same name."""
    return f"{deployment.metadata.name}-serve-{group}-{attempt}"


def labels(deployment: ModelDeployment) -> dict[str, str]:
    return {
        "muster.dev/model-deployment": deployment.metadata.name,
        "app.kubernetes.io/name": "muster-worker",
        "app.kubernetes.io/instance": deployment.metadata.name,
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/managed-by": "muster",
    }


def leaders(deployment: ModelDeployment) -> dict[str, str]:
    """Return the labels by which the pods that take requests are found, one a group."""
    return {"muster.dev/deployment-uid": deployment.metadata.uid, "muster.dev/role": "leader"}


def selector(deployment: ModelDeployment) -> str:
    return f"muster.dev/model-deployment={deployment.metadata.name},muster.dev/role=leader"
