"""runtime: tensorflowServing. TensorFlow's model server, as its image has it, and one SavedModel.

What follows from how it is made (read in its source, release 2.19):
- it listens once the model is loaded, not before: a probe that is answered at all is answered by a model;
- `/v1/models/NAME` says 200 of a model in any state, `…/metadata` only of one that requests reach;
- it tries a model that does not load five times again, a minute apart, and then ends; one that it does not find it
  waits for without end. So it is told not to try again, and what it is to serve is mounted as a version;
- it has no handler for SIGTERM, and ends with all that it is computing: it is told once the time to answer is over;
- it never tells an HTTP client that it leaves. A gRPC client it does, when its connection is of a certain age.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from muster.plan.serving.runtimes.common import common

if TYPE_CHECKING:
    from muster.api import ModelDeployment, ModelDeploymentSpec
    from muster.plan.serving.revisions import Revision

HTTP_PORT, GRPC_PORT = 8501, 8500
CONFIG = "/muster/config"


def container(deployment: ModelDeployment, spec: ModelDeploymentSpec, revision: Revision) -> dict[str, Any]:
    """Return what the template's container `worker` is laid over."""
    ours = common(spec, revision, mounted_at=f"{_base_path(deployment)}/{_version(revision)}")
    status = f"/v1/models/{deployment.metadata.name}"
    return ours | {
        "image": revision.image,
        "imagePullPolicy": revision.pull_policy,
        # Not the image's own entry point: a shell that stays, and passes no signal on.
        "command": ["tensorflow_model_server"],
        "args": _arguments(spec),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
        ],
        "volumeMounts": [*ours["volumeMounts"], {"name": "muster-config", "mountPath": CONFIG, "readOnly": True}],
        "startupProbe": _probe(status, periodSeconds=1, failureThreshold=900),  # a large model takes minutes
        "readinessProbe": _probe(f"{status}/metadata", periodSeconds=1, failureThreshold=3, timeoutSeconds=5),
        # Probes wait in line with requests: one that is only busy is not to be started again.
        "livenessProbe": _probe(status, periodSeconds=5, failureThreshold=12, timeoutSeconds=5),
        "lifecycle": {"preStop": {"sleep": {"seconds": spec.rollout.drain_seconds}}},
    }


def beside(deployment: ModelDeployment, spec: ModelDeploymentSpec) -> dict[str, Any]:
    """Return what else its pods have: its configuration as annotations, which a volume shows to it as files."""
    configuration = {f"{name}.config": text for name, text in _configuration(deployment, spec).items()}
    files = [
        {"path": name, "fieldRef": {"fieldPath": f"metadata.annotations['muster.dev/{name}']"}}
        for name in configuration
    ]
    return {
        "metadata": {"annotations": {f"muster.dev/{name}": text for name, text in configuration.items()}},
        "spec": {"volumes": [{"name": "muster-config", "downwardAPI": {"items": files}}]},
    }


def _arguments(spec: ModelDeploymentSpec) -> list[str]:
    # A third of the time that it goes on answering: by then every gRPC client has gone to another.
    oldest = spec.rollout.drain_seconds * 1000 // 3
    return [
        f"--port={GRPC_PORT}",
        f"--rest_api_port={HTTP_PORT}",
        f"--model_config_file={CONFIG}/models.config",
        f"--monitoring_config_file={CONFIG}/monitoring.config",
        "--max_num_load_retries=0",
        f"--grpc_channel_arguments=grpc.max_connection_age_ms={oldest}",
        *(
            ["--enable_batching", f"--batching_parameters_file={CONFIG}/batching.config"]
            if spec.batching.max_batch_size > 1
            else []
        ),
    ]


def _configuration(deployment: ModelDeployment, spec: ModelDeploymentSpec) -> dict[str, str]:
    """Return ModelServerConfig, MonitoringConfig and, if it is to batch, BatchingParameters in protobuf's text form."""
    name, batching = deployment.metadata.name, spec.batching
    model = f'name: "{name}" base_path: "{_base_path(deployment)}" model_platform: "tensorflow"'
    texts = {
        "models": f"model_config_list {{ config {{ {model} }} }}",
        "monitoring": "prometheus_config { enable: true }",
    }
    if batching.max_batch_size > 1:
        # What waits is bounded by its threads. By default it turns away what does not fit into ten batches.
        texts["batching"] = (
            f"max_batch_size {{ value: {batching.max_batch_size} }}\n"
            f"batch_timeout_micros {{ value: {batching.max_delay_milliseconds * 1000} }}\n"
            "max_enqueued_batches { value: 1000000 }"
        )
    return texts


def _base_path(deployment: ModelDeployment) -> str:
    return f"/models/{deployment.metadata.name}"


def _version(revision: Revision) -> str:
    """Return as which version the directory is mounted: as the one that it is called after, if it is."""
    last = revision.model.get("path", "").rstrip("/").rpartition("/")[2]
    return last if re.fullmatch("[0-9]{1,18}", last) else "1"


def _probe(path: str, **times: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, **times}
