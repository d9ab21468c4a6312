"""What both resources have in common: metadata, conditions, resources, where things are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from muster.api.base import Int, Model, Reported
from muster.api.lists import ATOMIC
from muster.api.names import ObjectName, RelativePath, Timestamp
from muster.api.quantity import Quantity, parse_quantity
from muster.api.rules import Rule

if TYPE_CHECKING:
    from decimal import Decimal

GROUP = "muster.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
OPERATOR = f"{GROUP}/operator"


class Metadata(Model):
    """What Muster reads of an object's metadata; everything else there is none of its business."""

    model_config = ConfigDict(extra="ignore")

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Condition(Reported):
    """One aspect of the state, in the form that all of Kubernetes uses."""

    type: Annotated[str, StringConstraints(max_length=316)]
    """What is spoken of, for example Admitted or Complete."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, StringConstraints(max_length=1024)]
    """Why, in one CamelCase word that programs can rely on."""
    message: Annotated[str, StringConstraints(max_length=32768)]
    """Why, in a sentence for people."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: Int | None = None
    """The metadata.generation that this was said of."""


def is_gpu(resource: str) -> bool:
    """Whether the devices of this resource name are GPUs that NCCL (on AMD: RCCL) can use."""
    return resource in {"nvidia.com/gpu", "amd.com/gpu"} or resource.startswith("nvidia.com/mig-")


IS_GPU = "(k in ['nvidia.com/gpu', 'amd.com/gpu'] || k.startsWith('nvidia.com/mig-'))"
"""`is_gpu(k)` in CEL."""


def _all_devices_whole(resources: Resources) -> bool:
    return all(_is_whole(amount) for name, amount in resources.limits.items() if "/" in name)


def _is_whole(amount: str) -> bool:
    parsed = parse_quantity(amount)
    return parsed == parsed.to_integral_value()


def _requests_fit(resources: Resources) -> bool:
    return all(_request_fits(name, amount, resources.limits) for name, amount in resources.requests.items())


def _request_fits(name: str, amount: str, limits: dict[str, str]) -> bool:
    if name not in limits:
        return "/" not in name
    requested, limit = parse_quantity(amount), parse_quantity(limits[name])
    return requested == limit if "/" in name else requested <= limit


Amounts = Annotated[dict[str, Quantity], Field(max_length=16)]


class Resources(Model):
    """What one pod's worker container gets of the node it runs on.

    The same as `resources` of any container in Kubernetes. Devices such as GPUs are asked for in `limits`. Muster
    waits until the cluster has room for all workers of the job before it makes any pod.
    """

    rules = (
        Rule(
            cel="!has(self.limits) || self.limits.all(k, !k.contains('/') || quantity(string(self.limits[k])).isInteger())",
            holds=_all_devices_whole,
            message="spec.resources.limits: devices such as nvidia.com/gpu come in whole numbers: write 1, 2, ...",
            at=".limits",
        ),
        Rule(
            cel=(
                "!has(self.requests) || self.requests.all(k, has(self.limits) && k in self.limits"
                " ? (k.contains('/')"
                " ? quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) == 0"
                " : quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)"
                " : !k.contains('/'))"
            ),
            holds=_requests_fit,
            message=(
                "spec.resources.requests: no request may be above its limit, and devices such as nvidia.com/gpu are"
                " asked for in spec.resources.limits alone"
            ),
            at=".requests",
        ),
    )

    limits: Amounts = Field(default_factory=dict)
    """The most that the container may use, by resource name, for example `{cpu: "4", memory: 8Gi, nvidia.com/gpu: 1}`.

    Also what is asked for, for each resource that `requests` does not name.
    """
    requests: Amounts = Field(default_factory=dict)
    """What the node must have free, by resource name, where that is less than the limit."""

    @property
    def gpus(self) -> int:
        """How many GPUs one pod asks for."""
        return int(sum(parse_quantity(amount) for name, amount in self.limits.items() if is_gpu(name)))

    def amounts(self) -> dict[str, Decimal]:
        """Return what one worker container takes from its node."""
        return {name: parse_quantity(amount) for name, amount in (self.limits | self.requests).items()}


class PersistentVolumeClaim(Model):
    """A claim in the same namespace."""

    claim_name: ObjectName
    """The claim's name. It must be ReadWriteMany when the job has more than one worker, for they are on different nodes."""


class EphemeralVolume(Model):
    """A volume made for each pod and deleted with it."""

    storage_class_name: ObjectName | None = None
    """The StorageClass, for example one of local NVMe disks. Absent: the cluster's default."""
    size: Quantity
    """How large the volume is, for example 50Gi."""


class Storage(Model):
    """Where checkpoints and the trained model are kept.

    Absent: on a scratch volume that goes with its pod, so that a lost pod's work and the trained model are lost too.
    """

    rules = (
        Rule(
            cel="has(self.persistentVolumeClaim) != has(self.ephemeral)",
            holds=lambda storage: (storage.persistent_volume_claim is None) != (storage.ephemeral is None),
            message="spec.storage: write exactly one of persistentVolumeClaim and ephemeral",
        ),
    )

    persistent_volume_claim: PersistentVolumeClaim | None = None
    """An existing claim, shared by all workers."""
    ephemeral: EphemeralVolume | None = None
    """A volume of each worker's own, for checkpoints only: it does not outlive its pod. Not supported yet."""
    path: RelativePath | None = None
    """The directory on the volume, made when it does not exist, for example `models/digits`. Absent: the volume's root.

    Jobs that share a claim need a directory each, or they resume from one another's checkpoints.
    """


class Clip(Model):
    """Cut every weight to the interval [-epsilon, epsilon]."""

    epsilon: Annotated[str, StringConstraints(min_length=1, max_length=32)]
    """The largest magnitude left, in standard deviations of the tensor, for example "3.0"."""


class Quantize(Model):
    """Store the weights in fewer bits."""

    bits: Literal[4, 8]
    """Bits a weight."""
    max_accuracy_drop: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = None
    """How much validation accuracy may be lost, for example "0.01"; the step fails when it loses more."""


class Distill(Model):
    """Train a small model on what the large one answers."""

    student: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    """The recipe of the small model, for example `muster_worker.recipes.digits:Small`."""
    temperature: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = None
    """How far the teacher's answers are softened, for example "4"."""
    alpha: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = None
    """The weight of the teacher's answers against the labels, from "0" to "1"."""
    epochs: Annotated[Int, Field(ge=1, le=1_000_000)] | None = None
    """How long the student is trained."""


class CompressionStep(Model):
    """One step that makes the trained model smaller. Each reports bytes and metrics before and after."""

    rules = (
        Rule(
            cel="[has(self.clip), has(self.quantize), has(self.distill)].exists_one(given, given)",
            holds=lambda step: (
                sum(part is not None for part in (step.clip, step.quantize, step.distill)) == 1
            ),
            message="spec.compression: write exactly one of clip, quantize and distill in each step",
        ),
    )

    clip: Clip | None = None
    quantize: Quantize | None = None
    distill: Distill | None = None


Compression = Annotated[tuple[CompressionStep, ...], Field(max_length=8), ATOMIC]
