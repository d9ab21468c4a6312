"""What the container that serves has in every runtime, and when clients have heard that a pod leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan import claims
from muster.plan.pod_parts import hardened_container

if TYPE_CHECKING:
    from muster.api import ModelDeploymentSpec
    from muster.plan.serving.revisions import Revision

SCRATCH, MODEL, CACHE = "/muster/run", "/muster/model", "/muster/cache"
HEARD_OF = 5
"""Seconds until everybody has heard that a pod takes no more requests."""


def common(spec: ModelDeploymentSpec, revision: Revision, mounted_at: str = MODEL) -> dict[str, Any]:
    """Return what no runtime changes. `mounted_at`: where the container finds the model."""
    below = revision.model.get("path")
    mount = {"name": "storage", "mountPath": mounted_at, "readOnly": "uri" not in revision.model}
    return {
        "name": "worker",
        "env": [{"name": "HOME", "value": SCRATCH}, {"name": "TMPDIR", "value": SCRATCH}],
        # The last lines of the log say why a process would not serve.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": claims.of_container(spec.resources),
        "securityContext": hardened_container(),
        "volumeMounts": [
            {"name": "run", "mountPath": SCRATCH},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a mount, not a temporary file
            mount | ({"subPath": below} if below else {}),
            *([{"name": "muster-cache", "mountPath": CACHE}] if revision.cache else []),
        ],
    }


def waits(spec: ModelDeploymentSpec) -> dict[str, Any]:
    """Return the lifecycle of a container that does not know that it has to answer on until everybody has heard."""
    return {"preStop": {"sleep": {"seconds": min(HEARD_OF, spec.rollout.drain_seconds)}}}
