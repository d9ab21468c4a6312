"""The part of a pod template that Muster looks at; the rest is Kubernetes' own business and kept as it is."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, StringConstraints
from pydantic_core import core_schema

from muster.api.base import WITHOUT_NULLS, Int, Model
from muster.api.core_v1 import CONTAINER_FIELDS, POD_FIELDS, opaque
from muster.api.lists import ATOMIC, ListType
from muster.api.rules import Rule

WORKER = "worker"
LABELS_OF_MUSTER = ("component", "instance", "managed-by", "name")  # of app.kubernetes.io
VOLUMES_OF_MUSTER = ("run", "shm", "source", "storage")
SET_BY_TORCHRUN = (
    "GROUP_RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class Partial(Model):
    """A part of the pod template, with whatever else Kubernetes knows there."""

    model_config = ConfigDict(extra="allow")


class EnvironmentVariable(Partial):
    """An environment variable, as in any pod."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """Its name. MUSTER_* and what torchrun sets (RANK, MASTER_ADDR, ...) belong to Muster."""
    value: str | None = None
    """Its value; numbers need quotes."""


class VolumeMount(Partial):
    """Where a volume is mounted, as in any pod."""

    name: Name
    """The volume's name."""
    mount_path: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """Where the container sees it. /muster and /dev/shm belong to Muster."""


def _of_worker(cel: str, holds: Callable[[Any], bool], message: str, at: str = "") -> Rule:
    """Return a rule that only the container `worker` has to keep."""
    return Rule(
        cel=f"self.name != '{WORKER}' || {cel}",
        holds=lambda container: container.name != WORKER or holds(container),
        message=f"in the container {WORKER}, {message}",
        at=at,
    )


def _is_of_muster(variable: EnvironmentVariable) -> bool:
    return variable.name.startswith("MUSTER_") or variable.name in SET_BY_TORCHRUN


def _is_muster_path(path: str) -> bool:
    return path in {"/muster", "/dev/shm", "/dev/shm/"} or path.startswith("/muster/")  # noqa: S108 - mounts


class Container(Partial):
    """A container, as in any pod. The one named `worker` is laid over the one that Muster builds."""

    model_config = ConfigDict(json_schema_extra=opaque(CONTAINER_FIELDS))
    rules: ClassVar[tuple[Rule, ...]] = (
        _of_worker(
            cel="!has(self.resources)",
            holds=lambda container: container.resources is None,
            message="resources are written in spec.resources, where Muster counts them: move them there",
            at=".resources",
        ),
        _of_worker(
            cel=(
                "!has(self.env) || self.env.all(variable, !variable.name.startsWith('MUSTER_')"
                f" && !(variable.name in {list(SET_BY_TORCHRUN)}))"
            ),
            holds=lambda container: not any(map(_is_of_muster, container.env or ())),
            message=f"MUSTER_* and {', '.join(SET_BY_TORCHRUN)} are set by Muster: leave them out",
            at=".env",
        ),
        _of_worker(
            cel=(
                "!has(self.volumeMounts) || self.volumeMounts.all(mount, !mount.mountPath.startsWith('/muster/')"
                " && !(mount.mountPath in ['/muster', '/dev/shm', '/dev/shm/']))"
            ),
            holds=lambda container: (
                not any(_is_muster_path(mount.mount_path) for mount in container.volume_mounts or ())
            ),
            message="/muster and /dev/shm belong to Muster: mount elsewhere, for example at /data",
            at=".volumeMounts",
        ),
    )

    name: Name
    """`worker` for the container that Muster builds; any other name adds a container beside it."""
    command: Annotated[tuple[str, ...], ATOMIC] | None = None
    """The program of a container beside the worker. The worker's is Muster's, but with spec.runtime custom."""
    args: Annotated[tuple[str, ...], ATOMIC] | None = None
    """The arguments of a container beside the worker. The worker's are Muster's, but with spec.runtime custom."""
    resources: dict[str, Any] | None = None
    """The resources of a container beside the worker; the worker's are written in spec.resources."""
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=256), ListType(keys=("name",))] | None = None
    """Environment variables."""
    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=64), ListType(keys=("mountPath",))] | None = None
    """Where volumes of spec.template.spec.volumes are mounted."""


class Volume(Partial):
    """A volume, as in any pod."""

    rules = (
        Rule(
            cel=f"!(self.name in {list(VOLUMES_OF_MUSTER)}) && !self.name.startsWith('muster-')",
            holds=lambda volume: volume.name not in VOLUMES_OF_MUSTER and not volume.name.startswith("muster-"),
            message=f"{', '.join(VOLUMES_OF_MUSTER)} and muster-* are volumes that Muster makes: write another name",
            found="self.name",
            at=".name",
        ),
    )

    name: Name
    """Its name. run, shm, source, storage and muster-* belong to Muster."""


def _left_out(field: str, attribute: str, why: str) -> Rule:
    def holds(pod: Any) -> bool:
        return getattr(pod, attribute) is None

    return Rule(
        cel=f"!has(self.{field})",
        holds=holds,
        message=f"this belongs to Muster, {why}: leave it out",
        at=f".{field}",
        reason="FieldValueForbidden",
    )


class PodSpec(Partial):
    """The pod, as in any PodTemplateSpec. What is written here goes before what Muster would write."""

    model_config = ConfigDict(json_schema_extra=opaque(POD_FIELDS))
    rules = (
        _left_out("hostname", "hostname", "by it the pods find each other"),
        _left_out("subdomain", "subdomain", "by it the pods find each other"),
        _left_out("restartPolicy", "restart_policy", "which replaces lost pods itself"),
    )

    containers: Annotated[tuple[Container, ...], Field(max_length=16), ListType(keys=("name",))] | None = None
    """Containers by name: `worker` is the one that Muster builds."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=64), ListType(keys=("name",))] | None = None
    """Volumes beside those that Muster makes."""
    termination_grace_period_seconds: Annotated[Int, Field(ge=5, le=86_400)] | None = None
    """How long a pod has to leave when it is asked to, in seconds. Absent: five more than spec.rollout.drainSeconds."""
    hostname: str | None = None
    """Belongs to Muster."""
    subdomain: str | None = None
    """Belongs to Muster."""
    restart_policy: str | None = None
    """Belongs to Muster."""


def _is_label_of_muster(key: str) -> bool:
    prefix, _, name = key.rpartition("/")
    return prefix == "muster.dev" or (prefix == "app.kubernetes.io" and name in LABELS_OF_MUSTER)


Labels = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=63)]],
    Field(max_length=64),
    Rule(
        cel=(
            "self.all(key, !key.startsWith('muster.dev/')"
            f" && !(key in {[f'app.kubernetes.io/{name}' for name in LABELS_OF_MUSTER]}))"
        ),
        holds=lambda labels: not any(map(_is_label_of_muster, labels)),
        message=(
            f"muster.dev/* and app.kubernetes.io/{{{', '.join(LABELS_OF_MUSTER)}}} are set by Muster: write other keys"
        ),
    ),
    WITHOUT_NULLS,
]


class PodMetadata(Model):
    """Labels and annotations of the pods."""

    labels: Labels | None = None
    """Labels beside those that Muster sets."""
    annotations: Annotated[dict[str, str], WITHOUT_NULLS] | None = None
    """Annotations."""


class PodTemplate(Model):
    """A partial PodTemplateSpec, laid over the pod that Muster builds by the rules of a strategic merge patch.

    For everything that has no field of its own: images, node selectors, tolerations, volumes, service accounts.
    The container that serves is named `worker`. For example
    `{spec: {nodeSelector: {disk: nvme}, containers: [{name: worker, image: registry.example/my-serve:1}]}}`.
    """

    metadata: PodMetadata | None = None
    spec: PodSpec | None = None


class TrainingContainer(Container):
    """A container, as in any pod. The one named `worker` is laid over the one that Muster builds."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _of_worker(
            cel="!has(self.command) && !has(self.args)",
            holds=lambda container: container.command is None and container.args is None,
            message="command and args belong to Muster: write what to run in spec.recipe or spec.script",
        ),
        *Container.rules,
    )

    name: Name
    """`worker` for the container that trains; any other name adds a container beside it."""
    command: Annotated[tuple[str, ...], ATOMIC] | None = None
    """The program of a container beside the worker; the worker's is Muster's agent."""
    args: Annotated[tuple[str, ...], ATOMIC] | None = None
    """The arguments of a container beside the worker; the worker's are Muster's."""


class TrainingPodSpec(PodSpec):
    """The pod, as in any PodTemplateSpec. What is written here goes before what Muster would write."""

    containers: Annotated[tuple[TrainingContainer, ...], Field(max_length=16), ListType(keys=("name",))] | None = None
    """Containers by name: `worker` is the one that trains."""
    termination_grace_period_seconds: Annotated[Int, Field(ge=5, le=86_400)] | None = None
    """How long a worker has to save a checkpoint when its pod is asked to end, in seconds. Absent: 30."""


class TrainingPodTemplate(PodTemplate):
    """A partial PodTemplateSpec, laid over the pod that Muster builds by the rules of a strategic merge patch.

    For everything that has no field of its own: images, node selectors, tolerations, volumes, service accounts.
    The container that trains is named `worker`. For example
    `{spec: {nodeSelector: {disk: nvme}, containers: [{name: worker, image: registry.example/my-train:1}]}}`.
    """

    spec: TrainingPodSpec | None = None


class _AsDict:
    """Validates as the model and becomes a dict again: pods stay plain JSON from the manifest to the API server."""

    def __init__(self, model: type[PodTemplate]) -> None:
        self._model = model

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def plain(template: PodTemplate) -> dict[str, Any]:
            return template.model_dump(mode="json", by_alias=True, exclude_unset=True)

        return core_schema.no_info_after_validator_function(
            plain,
            handler.generate_schema(self._model),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )


RawPodTemplate = Annotated[dict[str, Any], _AsDict(PodTemplate)]
RawTrainingPodTemplate = Annotated[dict[str, Any], _AsDict(TrainingPodTemplate)]
