"""runtime: custom. Image, ports and probes are the template's; what it is to serve is in the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.serving.runtimes.common import MODEL, common, waits

if TYPE_CHECKING:
    from muster.api import ModelDeployment, ModelDeploymentSpec
    from muster.plan.serving.revisions import Revision


def container(deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision) -> dict[str, Any]:
    """Return what the template's container `worker` is laid over."""
    ours = common(spec, revision)
    model = [
        {"name": "MUSTER_MODEL", "value": MODEL},
        {"name": "MUSTER_MODEL_NAME", "value": deployment.metadata.name},
    ]
    return ours | {"env": model + ours["env"], "lifecycle": waits(spec)}
