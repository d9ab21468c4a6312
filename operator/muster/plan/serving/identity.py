"""What everything that is made for a deployment is called, and what says whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.ownership import owner

if TYPE_CHECKING:
    from muster.api import ModelDeployment

GROUP = "muster.dev/group"
REVISION = "muster.dev/revision"
SIZE = "muster.dev/group-size"
ROLE = "muster.dev/role"
UID = "muster.dev/deployment-uid"
"""Whose a pod is, and whose Service, and with it what Kubernetes makes of that."""


def server_name(deployment: ModelDeployment, group: int, attempt: int) -> str:
    """A name that no other of its groups ever had. Not that of a worker of a TrainingJob of the same name."""
    return f"{deployment.metadata.name}-serve-{group}-{attempt}"


def name_of_rank(server: str, rank: int) -> str:
    """Return what the group's pod is called: the first has the name of the whole."""
    return f"{server}-{rank}" if rank else server


def groups_name(deployment: ModelDeployment) -> str:
    """Return the name of the Service by which the pods of a group find one another."""
    return f"{deployment.metadata.name}-groups"


def labels(deployment: ModelDeployment) -> dict[str, str]:
    return {
        "muster.dev/model-deployment": deployment.metadata.name,
        "app.kubernetes.io/name": "muster-worker",
        "app.kubernetes.io/instance": deployment.metadata.name,
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/managed-by": "muster",
    }


def metadata(deployment: ModelDeployment, name: str) -> dict[str, Any]:
    """Return that of an object of this name that is made for the deployment."""
    return {
        "name": name,
        "namespace": deployment.metadata.namespace,
        "labels": labels(deployment),
        "ownerReferences": [owner(deployment)],
    }


def leaders(deployment: ModelDeployment) -> dict[str, str]:
    """Return the labels by which the pods that take requests are found, one a group."""
    return everyone(deployment) | role(0)


def everyone(deployment: ModelDeployment) -> dict[str, str]:
    """Return the label by which all pods are found."""
    return {UID: deployment.metadata.uid}


def role(rank: int) -> dict[str, str]:
    return {ROLE: "member" if rank else "leader"}


def selector(deployment: ModelDeployment) -> str:
    return f"muster.dev/model-deployment={deployment.metadata.name},{ROLE}=leader"
