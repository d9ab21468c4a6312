"""The model of a deployment, compressed before it is served: once, by a pod of its own, beside the model it is made of.

The pod is named after the model and the steps, and what it came to is in its termination message, so that nothing has
to be remembered until the result is kept in a revision. Nothing else removes what it has written: models of revisions
that are gone stay on the volume, as those of training jobs do.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan import refusals
from muster.plan.pod_parts import hardened_container, hardened_pod
from muster.plan.pods import ATTEMPT, RANK, Pod, read, worker_status
from muster.plan.removal import is_on_its_way, of_living, removal
from muster.plan.serving import identity
from muster.plan.serving.runtimes.common import SCRATCH
from muster.plan.strategic_merge import merge
from muster.plan.trained_model import Missing, compression_step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.api import ModelDeployment
    from muster.plan.model import Delete, Manifest, Observed, Settings

STORAGE = "/muster/storage"
ROLE = {identity.ROLE: "compressor"}
_OF_SERVERS = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "ports")
"""What a template says of a container that answers requests."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done so that there is a compressed model. `look_again`: after how many seconds."""

    creates: tuple[Manifest, ...] = ()
    deletes: tuple[Delete, ...] = ()
    look_again: float | None = None


def is_wanted(deployment: ModelDeployment) -> bool:
    return bool(deployment.spec.compression)


def compressed(
    deployment: ModelDeployment, model: Mapping[str, str], observed: Observed, settings: Settings, now: float
) -> tuple[dict[str, Any] | Missing, Work]:
    """Return the model as `status.model` is to have it, or why it is not there yet; and what to do about that."""
    wanted = build_pod(deployment, model, settings)
    name = wanted["metadata"]["name"]
    manifest = next((one for one in observed.pods if one["metadata"]["name"] == name), None)
    others = clear(observed, but=name)
    if manifest is None:
        return _begun(deployment, wanted, others, observed, now)
    pod = Pod(**read(manifest, observed.nodes))
    if pod.succeeded:
        return _outcome(model, target(deployment, model), manifest), Work(deletes=others)
    patience = deployment.spec.failover.node_lost_seconds
    given_up = pod.lost_since is not None and now - pod.lost_since >= patience
    if (pod.failed or given_up) and not is_on_its_way(pod):  # it was evicted, or its node is gone: another follows
        return _waiting(pod, manifest), Work(deletes=(*others, removal(pod)))
    left = None if pod.lost_since is None else pod.lost_since + patience - now
    return _waiting(pod, manifest), Work(deletes=others, look_again=left)


def clear(observed: Observed, but: str = "") -> tuple[Delete, ...]:
    """Return the removal of all pods that compressed for a deployment, except of that name."""
    there = [Pod(**read(one, observed.nodes)) for one in observed.pods if is_compressor(one)]
    done = (removal(one) for one in there if one.ended and not one.deleting and one.name != but)
    return (*done, *of_living(one for one in there if one.name != but))


def is_compressor(pod: Manifest) -> bool:
    labels: Mapping[str, str] = pod["metadata"]["labels"]
    return ROLE.items() <= labels.items()


def target(deployment: ModelDeployment, model: Mapping[str, str]) -> str:
    """Return where on the model's volume it is written. Not inside of the model: whoever trains again replaces that."""
    below = model.get("path")
    return f"{below}.compressed/{_name(deployment, model)}" if below else f"compressed/{_name(deployment, model)}"


def build_pod(deployment: ModelDeployment, model: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """Return the pod that compresses. Of the template it has what its own container says and what says where it runs.

    It computes on a CPU, whatever the pods compute on that serve.
    """
    spec = deployment.spec
    own = {
        "restartPolicy": "OnFailure",
        **hardened_pod(),
        "containers": [_container(deployment, model, settings)],
        "volumes": [
            {"name": "run", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "storage", "persistentVolumeClaim": {"claimName": model["claimName"]}},
        ],
    }
    template = merge({"metadata": {}, "spec": own}, spec.template)
    worker = next(one for one in template["spec"]["containers"] if one["name"] == "worker")
    kept = {name: value for name, value in worker.items() if name not in _OF_SERVERS}
    labels = identity.labels(deployment) | ROLE | {RANK: "0", ATTEMPT: "0"}
    metadata = identity.metadata(deployment, f"{deployment.metadata.name}-compress-{_name(deployment, model)}")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": merge(template["metadata"], metadata | {"labels": labels}),
        # Another container of the template's, which serves without end, would keep the pod from ending.
        "spec": template["spec"] | {"containers": [kept | {"args": own["containers"][0]["args"]}]},
    }


def _container(deployment: ModelDeployment, model: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    checksum = model.get("sha256")
    return {
        "name": "worker",
        "image": settings.worker_image,
        "imagePullPolicy": settings.worker_image_pull_policy,
        "args": [
            "compress",
            f"{STORAGE}/{model['path']}" if "path" in model else STORAGE,
            f"{STORAGE}/{target(deployment, model)}",
            f"--steps={_steps(deployment)}",
            "--report=/dev/termination-log",
            *([f"--sha256={checksum}"] if checksum else []),
        ],
        "env": [{"name": "HOME", "value": SCRATCH}, {"name": "TMPDIR", "value": SCRATCH}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # Without devices: those that are claimed, and those whose names have a domain.
        "resources": deployment.spec.resources.amounts(lambda name: "/" not in name),
        "securityContext": hardened_container(),
        "volumeMounts": [
            {"name": "run", "mountPath": SCRATCH},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a mount, not a temporary file
            {"name": "storage", "mountPath": STORAGE},
        ],
    }


def _steps(deployment: ModelDeployment) -> str:
    return json.dumps([step.manifest() for step in deployment.spec.compression or ()], separators=(",", ":"))


def _name(deployment: ModelDeployment, model: Mapping[str, str]) -> str:
    """Return what tells this work from any other."""
    said = json.dumps([dict(model), _steps(deployment)], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:8]


def _begun(
    deployment: ModelDeployment, wanted: Manifest, others: tuple[Delete, ...], observed: Observed, now: float
) -> tuple[Missing, Work]:
    if deployment.spec.suspend:
        waits = Missing("Suspended", "spec.suspend is true: the model is compressed once it is not")
        return waits, Work(deletes=others)
    pause = refusals.pause(observed.refusal, now)
    if pause is not None and observed.refusal is not None:
        refused = Missing("Refused", f"the pod that is to compress the model is refused: {observed.refusal.message}")
        return refused, Work(deletes=others, look_again=pause)
    return _compressing("the model is about to be compressed"), Work(creates=(wanted,), deletes=others)


def _waiting(pod: Pod, manifest: Manifest) -> Missing:
    ended = worker_status(manifest).get("lastState", {}).get("terminated")
    if ended is not None:
        lines = str(ended.get("message") or "").strip().splitlines()
        words = lines[-1].removeprefix("error: ") if lines else f"exit code {ended.get('exitCode')}"
        return _compressing(f"{pod.name} has failed and tries again: {words}")
    if pod.reason:
        return _compressing(f"{pod.name} cannot start: {pod.message or pod.reason}")
    return _compressing(f"{pod.name} compresses the model")


def _compressing(message: str) -> Missing:
    return Missing("Compressing", message, phase="Compressing")


def _outcome(model: Mapping[str, str], path: str, manifest: Manifest) -> dict[str, Any] | Missing:
    said = worker_status(manifest).get("state", {}).get("terminated", {}).get("message", "")
    try:
        told = json.loads(said)
    except json.JSONDecodeError:
        told = {"error": f"{manifest['metadata']['name']} ended without a word on what it came to, but: {said!r}"}
    if "error" in told:
        return Missing("CompressionFailed", told["error"], phase="Failed")
    steps = [compression_step(report) for report in told["compression"]]
    return {**model, "path": path, "sha256": told["sha256"], "bytes": told["bytes"], "compression": steps}
