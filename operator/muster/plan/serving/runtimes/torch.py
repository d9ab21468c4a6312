"""runtime: torch. `muster-worker serve`, by one process or by those of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.serving import identity
from muster.plan.serving.runtimes.common import CACHE, MODEL, common

if TYPE_CHECKING:
    from muster.api import ModelDeployment, ModelDeploymentSpec
    from muster.plan.serving.revisions import Revision

HTTP_PORT, GRPC_PORT, GROUP_PORT = 8080, 9000, 8090


def container(
    deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision, server: str, rank: int
) -> dict[str, Any]:
    """Return that of one pod of the group that `server` names."""
    alone = single(deployment, spec, revision)
    return alone if spec.group.divided.processes == 1 else _in_group(deployment, spec, alone, server, rank)


def single(
    deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision, command: str = "serve"
) -> dict[str, Any]:
    """Return that of the only pod of a group; `command`: which of `muster-worker`."""
    deadline = deployment.spec.rollout.progress_deadline_seconds
    return common(spec, revision) | {
        "image": revision.image,
        "imagePullPolicy": revision.pull_policy,
        "args": [command, *_arguments(deployment, spec, revision)],
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
        ],
        # Torch from a slow disk takes minutes, and nobody listens before a model is fetched.
        "startupProbe": _probe("live", periodSeconds=1, failureThreshold=max(900, deadline)),
        "readinessProbe": _probe("ready", periodSeconds=1, failureThreshold=3, timeoutSeconds=2),
        "livenessProbe": _probe("live", periodSeconds=5, failureThreshold=3, timeoutSeconds=5),
    }


def _arguments(deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision) -> list[str]:
    checksum, uri = revision.model.get("sha256"), revision.model.get("uri")
    return [
        MODEL,
        f"--name={deployment.metadata.name}",
        f"--port={HTTP_PORT}",
        f"--grpc-port={GRPC_PORT}",
        f"--max-batch-size={spec.batching.max_batch_size}",
        f"--max-delay-milliseconds={spec.batching.max_delay_milliseconds}",
        f"--drain-seconds={spec.rollout.drain_seconds}",
        *([f"--sha256={checksum}"] if checksum else []),
        *([f"--fetch={uri}"] if uri else []),
        *([f"--cache={CACHE}"] if revision.cache else []),
        *_explanations(spec),
    ]


def _explanations(spec: ModelDeploymentSpec) -> list[str]:
    explain = spec.explain
    if explain is None:
        return []
    return [f"--explain={explain.method}" + ("" if explain.baseline == "zeros" else f":{explain.baseline}")]


def _in_group(
    deployment: ModelDeployment, spec: ModelDeploymentSpec, alone: dict[str, Any], server: str, rank: int
) -> dict[str, Any]:
    """Return the container as that of one of several pods, or of one with several processes."""
    divided = spec.group.divided
    host = f"{server}.{identity.groups_name(deployment)}"  # found by the first look-up, in the namespace's own domain
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
