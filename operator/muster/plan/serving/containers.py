"""What serves, by the runtime that the spec names. Whatever is not said here is the template's to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.serving.runtimes import custom, tensorflow_serving, torch, torchserve

if TYPE_CHECKING:
    from muster.api import ModelDeployment, ModelDeploymentSpec
    from muster.plan.serving.revisions import Revision


def container(deployment: ModelDeployment, revision: Revision, server: str, rank: int) -> dict[str, Any]:
    """Return the container of one pod of the group that `server` names."""
    spec = revision.spec
    match spec.runtime:
        case "custom":
            return custom.container(deployment, spec, revision)
        case "torchserve":
            return torchserve.container(deployment, spec, revision)
        case "tensorflowServing":
            return tensorflow_serving.container(deployment, spec, revision)
        case _:
            return torch.container(deployment, spec, revision, server, rank)


def beside(deployment: ModelDeployment, spec: ModelDeploymentSpec) -> dict[str, Any]:
    """Return what else a pod of it has, as a template of pods: annotations and volumes."""
    return tensorflow_serving.beside(deployment, spec) if spec.runtime == "tensorflowServing" else {}
