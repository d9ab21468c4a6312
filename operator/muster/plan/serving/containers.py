"""The container that serves, by the runtime that the spec names. Whatever is not said here is the template's to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.pod_parts import hardened_container
from muster.plan.serving import identity

if TYPE_CHECKING:
    from muster.api import ModelDeployment, ModelDeploymentSpec
    from muster.plan.serving.revisions import Revision

HTTP_PORT, GRPC_PORT, GROUP_PORT = 8080, 9000, 8090
SCRATCH, MODEL = "/muster/run", "/muster/model"
HEARD_OF = 5
"""Seconds until everybody has heard that a pod takes no more requests."""


def container(deployment: ModelDeployment, revision: Revision, server: str, rank: int) -> dict[str, Any]:
    """Return that of one pod of the group that `server` names."""
    spec = revision.spec
    if spec.runtime == "custom":
        return _custom(deployment, spec, revision)
    alone = _torch(deployment, spec, revision)
    return alone if spec.group.divided.processes == 1 else _in_group(deployment, spec, alone, server, rank)


def _common(spec: ModelDeploymentSpec, revision: Revision) -> dict[str, Any]:
    below = revision.model.get("path")
    mount = {"name": "storage", "mountPath": MODEL, "readOnly": "uri" not in revision.model}
    return {
        "name": "worker",
        "env": [{"name": "HOME", "value": SCRATCH}, {"name": "TMPDIR", "value": SCRATCH}],
        # The last lines of the log say why a process would not serve.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {name: amounts for name, amounts in spec.resources.manifest().items() if amounts},
        "securityContext": hardened_container(),
        "volumeMounts": [
            {"name": "run", "mountPath": SCRATCH},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a mount, not a temporary file
            mount | ({"subPath": below} if below else {}),
        ],
    }


def _custom(deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision) -> dict[str, Any]:
    """Image, ports and probes are the template's; what it is to serve is in the environment."""
    common = _common(spec, revision)
    model = [
        {"name": "MUSTER_MODEL", "value": MODEL},
        {"name": "MUSTER_MODEL_NAME", "value": deployment.metadata.name},
    ]
    # It does not know that it has to answer on until everybody has heard.
    waits = {"preStop": {"sleep": {"seconds": min(HEARD_OF, spec.rollout.drain_seconds)}}}
    return common | {"env": model + common["env"], "lifecycle": waits}


def _torch(deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision) -> dict[str, Any]:
    return _common(spec, revision) | {
        "image": revision.image,
        "imagePullPolicy": revision.pull_policy,
        "args": _arguments(deployment, spec, revision),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
        ],
        "startupProbe": _probe("live", periodSeconds=1, failureThreshold=900),  # torch from a slow disk takes minutes
        "readinessProbe": _probe("ready", periodSeconds=1, failureThreshold=3, timeoutSeconds=2),
        "livenessProbe": _probe("live", periodSeconds=5, failureThreshold=3, timeoutSeconds=5),
    }


def _arguments(deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision) -> list[str]:
    checksum, uri = revision.model.get("sha256"), revision.model.get("uri")
    return [
        "serve",
        MODEL,
        f"--name={deployment.metadata.name}",
        f"--port={HTTP_PORT}",
        f"--grpc-port={GRPC_PORT}",
        f"--max-batch-size={spec.batching.max_batch_size}",
        f"--max-delay-milliseconds={spec.batching.max_delay_milliseconds}",
        f"--drain-seconds={spec.rollout.drain_seconds}",
        *([f"--sha256={checksum}"] if checksum else []),
        *([f"--fetch={uri}"] if uri else []),
    ]


def _in_group(
    deployment: ModelDeployment, spec: ModelDeploymentSpec, alone: dict[str, Any], server: str, rank: int
) -> dict[str, Any]:
    """Return the container as that of one of several pods, or of one with several processes."""
    divided = spec.group.divided
    host = f"{server}.{identity.groups_name(deployment)}.{deployment.metadata.namespace}.svc"
    arguments = [
        f"--group={server}",
        f"--data={divided.data}",
        f"--tensor={divided.tensor}",
        f"--pipeline={divided.pipeline}",
        f"--pods={spec.group.size}",
        f"--pod={rank}",
        f"--group-port={GROUP_PORT}",
        *([f"--leader={host}"] if rank else []),
    ]
    port = {"name": "group", "containerPort": GROUP_PORT, "protocol": "TCP"}
    return alone | {"args": alone["args"] + arguments, "ports": [*alone["ports"], port]}


def _probe(health: str, **times: int) -> dict[str, Any]:
    return {"httpGet": {"path": f"/v2/health/{health}", "port": "http"}, **times}
