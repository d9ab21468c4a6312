"""runtime: torchserve. `muster-worker torchserve`, which answers as `serve` does and has TorchServe compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.serving.runtimes import torch

if TYPE_CHECKING:
    from muster.api import ModelDeployment, ModelDeploymentSpec
    from muster.plan.serving.revisions import Revision


def container(deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision) -> dict[str, Any]:
    """Return what the template's container `worker` is laid over."""
    return torch.single(deployment, spec, revision, command="torchserve")
