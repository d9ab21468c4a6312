"""What a job is made of: one headless Service and one pod per worker. Builders only; they decide nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan import claims
from muster.plan.ownership import owner
from muster.plan.pod_parts import complete_environment, hardened_container, hardened_pod, keep_off
from muster.plan.pods import ATTEMPT, RANK
from muster.plan.strategic_merge import merge
from muster.plan.training import identity, pod_groups, servers, tpu
from muster.plan.training.members import DOMAIN

if TYPE_CHECKING:
    from muster.api import TrainingJob
    from muster.api.base import Model
    from muster.api.storage import Storage
    from muster.plan.model import Manifest, Settings

AGENT_PORT = 7070
SCRATCH, STORAGE, SOURCE = "/muster/run", "/muster/storage", "/muster/source"
INITIAL_MODEL = "/muster/initial-model"
GRACE_SECONDS = 30


def build_service(job: TrainingJob) -> Manifest:
    """Return the headless Service that gives every worker a host name, from the moment it has an address."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": identity.group_name(job),
            "namespace": job.metadata.namespace,
            "labels": identity.labels(job),
            "ownerReferences": [owner(job)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"muster.dev/job-uid": job.metadata.uid},
            "ports": [{"name": "agent", "port": AGENT_PORT, "protocol": "TCP", "targetPort": AGENT_PORT}],
        },
    }


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was decided when the job was admitted, the same for all of its pods.

    `domain`: the value of the topology key. `initial_model`: as the status has it. `avoided`: nodes that they are kept
    off, which may become more. `image`: that of the workers that go on; None for the one of now.
    """

    domain: str | None = None
    initial_model: Manifest | None = None
    avoided: tuple[str, ...] = ()
    image: str | None = None


def build_pod(
    job: TrainingJob, settings: Settings, rank: int, attempt: int, chosen: Chosen | None = None
) -> dict[str, Any]:
    """Return the pod of one rank in one attempt, with the user's template laid over it."""
    chosen = chosen or Chosen()
    labels = identity.labels(job) | {
        "muster.dev/role": servers.role(job, rank),
        RANK: str(rank),
        ATTEMPT: str(attempt),
    }
    spec = _pod_spec(job, settings, rank)
    environment = _environment(job, rank, attempt)
    if chosen.image is not None:
        spec["containers"][0]["image"] = chosen.image
    if chosen.domain is not None:
        labels[DOMAIN] = chosen.domain
        spec["nodeSelector"] = {job.spec.scheduling.topology_key: chosen.domain}
    if chosen.initial_model is not None:
        _mount_model(spec, chosen.initial_model)
        environment |= {"MUSTER_INITIAL_MODEL": INITIAL_MODEL}
        environment |= {"MUSTER_INITIAL_MODEL_SHA256": chosen.initial_model["sha256"]}
    template = merge({"metadata": {}, "spec": spec}, job.spec.template)
    environment["MUSTER_GRACE_SECONDS"] = str(template["spec"]["terminationGracePeriodSeconds"])
    complete_environment(template["spec"], environment)
    keep_off(template["spec"], chosen.avoided)
    metadata = merge(merge(template["metadata"], {"labels": labels}), pod_groups.membership(job))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata
        | {
            "name": identity.pod_name(job, rank, attempt),
            "namespace": job.metadata.namespace,
            "ownerReferences": [owner(job)],
        },
        "spec": template["spec"],
    }


def backend(job: TrainingJob) -> str | None:
    """NCCL speaks between GPUs only; gloo does everywhere. TPUs speak among themselves, by the programs of XLA.

    None: the workers see what it is that they have claimed.
    """
    if job.spec.on_xla:
        return "xla"
    if job.spec.backend != "auto":
        return job.spec.backend
    if job.spec.resources.gpus:
        return "nccl"
    return None if job.spec.resources.claims else "gloo"


def processes_per_worker(job: TrainingJob) -> int:
    if job.spec.processes_per_worker != "auto":
        return int(job.spec.processes_per_worker)
    # A worker of parameter servers is one process, as they are: its rank is its pod's.
    return 1 if servers.count(job) else max(1, job.spec.resources.accelerators)


def _pod_spec(job: TrainingJob, settings: Settings, rank: int) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "restartPolicy": "Never",  # the agent restarts ranks; a pod whose agent is gone gets a successor
        "hostname": f"{job.metadata.name}-{rank}",
        "subdomain": identity.group_name(job),
        **hardened_pod(),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [_container(job, settings, rank)],
        "volumes": _volumes(job),
    }
    if rank >= servers.count(job):
        spec |= claims.of_pod(job.spec.resources)
    if job.spec.scheduling.priority_class_name:
        spec["priorityClassName"] = job.spec.scheduling.priority_class_name
    if (scheduler := pod_groups.scheduler(job)) is not None:
        spec["schedulerName"] = scheduler
    return spec


def _container(job: TrainingJob, settings: Settings, rank: int) -> dict[str, Any]:
    ports = [{"name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP"}]
    if serves := rank < servers.count(job):
        ports.append({"name": "parameters", "containerPort": servers.PORT, "protocol": "TCP"})
    return {
        "name": "worker",
        "image": settings.worker_image,
        "imagePullPolicy": settings.worker_image_pull_policy,
        "args": _arguments(job),
        "env": [{"name": "HOME", "value": SCRATCH}, {"name": "TMPDIR", "value": SCRATCH}],
        "ports": ports,
        "startupProbe": _probe(periodSeconds=2, failureThreshold=300),  # torch from a slow disk takes minutes
        # An agent that answers nobody for a minute cannot help itself: its pod is ended, and gets a successor.
        "livenessProbe": _probe(
            periodSeconds=10, failureThreshold=6, timeoutSeconds=5, terminationGracePeriodSeconds=1
        ),
        "resources": (servers.without_devices if serves else claims.of_container)(job.spec.resources),
        "securityContext": hardened_container(),
        "volumeMounts": _mounts(job),
    }


def _probe(**times: int) -> dict[str, Any]:
    return {"httpGet": {"path": "/healthz", "port": "agent"}, **times}


def _arguments(job: TrainingJob) -> list[str]:
    if job.spec.script is not None:
        return ["agent", "script", "--", *job.spec.script.command]
    assert job.spec.recipe is not None, "the schema asks for a recipe or a script"
    return ["agent", "recipe", job.spec.recipe.name]


def _environment(job: TrainingJob, rank: int, attempt: int) -> dict[str, str]:
    spec = job.spec
    environment = {
        "MUSTER_JOB": job.metadata.name,
        "MUSTER_JOB_UID": job.metadata.uid,
        "MUSTER_NAMESPACE": job.metadata.namespace,
        "MUSTER_POD": identity.pod_name(job, rank, attempt),
        "MUSTER_RANK": str(rank),
        "MUSTER_REPLICAS": str(servers.most(job) if servers.count(job) else job.spec.replicas),
        "MUSTER_ATTEMPT": str(attempt),
        "MUSTER_PROCESSES": str(processes_per_worker(job)),
        "MUSTER_COORDINATOR": f"{job.metadata.name}-0.{identity.group_name(job)}:{AGENT_PORT}",
        "MUSTER_PORT": str(AGENT_PORT),
        "MUSTER_REPORT": f"{SCRATCH}/report.jsonl",
        "MUSTER_PERMANENT_EXIT_CODES": ",".join(str(code) for code in spec.failure_policy.permanent_exit_codes),
        "MUSTER_SUCCESS_POLICY": spec.success_policy,
    }
    environment |= _of_backend(job) | _of_network(job) | tpu.environment(job, rank)
    if servers.count(job):
        environment["MUSTER_PARAMETER_SERVERS"] = servers.addresses(job)
    # What does not apply is left out: the API server keeps the owner of each variable beside it.
    if spec.elastic is not None:
        environment["MUSTER_MIN_REPLICAS"] = str(spec.elastic.min_replicas)
        environment["MUSTER_MAX_REPLICAS"] = str(spec.elastic.max_replicas)
    if spec.failure_policy.hang_timeout_seconds:
        environment["MUSTER_HANG_TIMEOUT_SECONDS"] = str(spec.failure_policy.hang_timeout_seconds)
    if spec.storage is not None:
        environment["MUSTER_STORAGE"] = STORAGE
    if spec.source is not None:
        environment["MUSTER_SOURCE"] = SOURCE
    if spec.recipe is not None:
        environment["MUSTER_RECIPE_CONFIG"] = json.dumps(spec.recipe.config, separators=(",", ":"))
        environment["MUSTER_CHECKPOINT"] = _json(spec.checkpoint)
        environment["MUSTER_OPTIMISATION"] = _json(spec.optimisation)
        if spec.compression:
            steps = [step.manifest() for step in spec.compression]
            environment["MUSTER_COMPRESSION"] = json.dumps(steps, separators=(",", ":"))
        if spec.distillation is not None:
            environment["MUSTER_DISTILLATION"] = _json(spec.distillation)
        if spec.strategy is not None:
            environment["MUSTER_STRATEGY"] = _json(spec.strategy)
    return environment


def _of_backend(job: TrainingJob) -> dict[str, str]:
    chosen = backend(job)
    return {} if chosen is None else {"MUSTER_BACKEND": chosen}


def _of_network(job: TrainingJob) -> dict[str, str]:
    """Return what tells gloo and NCCL of the network that they are to use, by names of their own."""
    network = job.spec.network
    if network is None:
        return {}
    told = {
        "GLOO_SOCKET_IFNAME": network.interface,
        "NCCL_SOCKET_IFNAME": f"={network.interface}" if network.interface is not None else None,
        "NCCL_IB_HCA": network.rdma_devices,
    }
    return {name: value for name, value in told.items() if value is not None}


def _volumes(job: TrainingJob) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "run", "emptyDir": {}},
        {
            "name": "shm",
            "emptyDir": {"medium": "Memory"},
        },  # the container runtime's own is 64 MiB: too small for NCCL
    ]
    if job.spec.storage is not None:
        volumes.append({"name": "storage", **_storage(job.spec.storage)})
    if job.spec.source is not None:
        volumes.append({"name": "source", "configMap": {"name": job.spec.source.config_map}})
    return volumes


def _storage(storage: Storage) -> dict[str, Any]:
    if storage.persistent_volume_claim is not None:
        return {"persistentVolumeClaim": {"claimName": storage.persistent_volume_claim.claim_name}}
    assert storage.ephemeral is not None, "the schema asks for one of the two"
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.ephemeral.size}},
    }
    if storage.ephemeral.storage_class_name is not None:
        claim["storageClassName"] = storage.ephemeral.storage_class_name
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def _mount_model(spec: dict[str, Any], model: Manifest) -> None:
    """A claim must not be two volumes of one pod: the kubelet would wait for the second for ever."""
    source = {"persistentVolumeClaim": {"claimName": model["claimName"]}}
    name = next((volume["name"] for volume in spec["volumes"] if source.items() <= volume.items()), None)
    if name is None:
        name = "muster-initial-model"
        spec["volumes"].append({"name": name, **source})
    mount = {"name": name, "mountPath": INITIAL_MODEL, "subPath": model["path"], "readOnly": True}
    spec["containers"][0]["volumeMounts"].append(mount)


def _mounts(job: TrainingJob) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "run", "mountPath": SCRATCH},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a mount, not a temporary file
    ]
    if job.spec.storage is not None:
        mount = {"name": "storage", "mountPath": STORAGE}
        mounts.append(mount | ({"subPath": job.spec.storage.path} if job.spec.storage.path else {}))
    if job.spec.source is not None:
        mounts.append({"name": "source", "mountPath": SOURCE, "readOnly": True})
    return mounts


def _json(part: Model | None) -> str:
    """Return a part of the spec as the manifest writes it; an absent part is an empty object."""
    return json.dumps(part.manifest() if part else {}, separators=(",", ":"))
