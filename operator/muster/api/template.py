"""The part of a pod template that Muster looks at; the rest is Kubernetes' own business and kept as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import ConfigDict, Field, StringConstraints
from pydantic_core import core_schema

from muster.api.base import Int, Model
from muster.api.lists import ListType
from muster.api.rules import Rule

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

WORKER = "worker"
SET_BY_MUSTER: Final = (
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/name",
)
SET_BY_TORCHRUN: Final = (
    "GROUP_RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
)
VOLUMES_OF_MUSTER: Final = ("run", "shm", "source", "storage")

# Declared, so that the API server compares them when it checks that the template did not change: of fields that a
# schema does not name, its CEL compares the number only (unstructuredMap.Equal in k8s.io/apiserver 0.34).
_POD_FIELDS = (
    "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks hostAliases"
    " hostIPC hostNetwork hostPID hostUsers imagePullSecrets initContainers nodeName nodeSelector os overhead"
    " preemptionPolicy priority priorityClassName readinessGates resourceClaims resources runtimeClassName"
    " schedulerName schedulingGates securityContext serviceAccountName setHostnameAsFQDN shareProcessNamespace"
    " tolerations topologySpreadConstraints"
).split()
_CONTAINER_FIELDS = (
    "envFrom image imagePullPolicy lifecycle livenessProbe ports readinessProbe resizePolicy restartPolicy"
    " securityContext startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices"
    " workingDir"
).split()


def _opaque(names: list[str]) -> Any:
    """Return what adds fields of any form to a schema; null stays, for it removes what Muster would set."""

    def add(schema: dict[str, Any]) -> None:
        opaque = {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
        schema["properties"] |= {name: dict(opaque) for name in names}

    return add


class Partial(Model):
    """A part of the pod template, with whatever else Kubernetes knows there."""

    model_config = ConfigDict(extra="allow")


class EnvironmentVariable(Partial):
    """An environment variable, as in any pod."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """Its name; MUSTER_* and what torchrun sets (RANK, MASTER_ADDR, ...) belong to Muster."""
    value: str | None = None
    """Its value; numbers need quotes."""


class VolumeMount(Partial):
    """Where a volume is mounted, as in any pod."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """The volume's name."""
    mount_path: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """Where the container sees it; /muster and /dev/shm belong to Muster."""


def _is_muster_path(path: str) -> bool:
    return path in {"/muster", "/dev/shm", "/dev/shm/"} or path.startswith("/muster/")  # noqa: S108 - mounts


class Container(Partial):
    """A container, as in any pod. The one named `worker` is laid over the one that Muster builds."""

    model_config = ConfigDict(json_schema_extra=_opaque(_CONTAINER_FIELDS))
    rules = (
        Rule(
            cel="self.name != 'worker' || !has(self.command) && !has(self.args)",
            holds=lambda container: (
                container.name != WORKER or container.command is None and container.args is None
            ),
            message=(
                "spec.template.spec.containers: command and args of the container worker belong to Muster, which starts"
                " its agent there: say what to run in spec.recipe or spec.script"
            ),
        ),
        Rule(
            cel="self.name != 'worker' || !has(self.resources)",
            holds=lambda container: container.name != WORKER or container.resources is None,
            message=(
                "spec.template.spec.containers: resources of the container worker are written in spec.resources, where"
                " Muster counts them: move them there"
            ),
        ),
        Rule(
            cel=(
                "self.name != 'worker' || !has(self.env) || self.env.all(variable,"
                " !variable.name.startsWith('MUSTER_') && !(variable.name in"
                f" [{', '.join(repr(name) for name in SET_BY_TORCHRUN)}]))"
            ),
            holds=lambda container: (
                container.name != WORKER
                or not any(
                    variable.name.startswith("MUSTER_") or variable.name in SET_BY_TORCHRUN
                    for variable in container.env or ()
                )
            ),
            message=(
                "spec.template.spec.containers: the container worker gets MUSTER_* and"
                f" {', '.join(SET_BY_TORCHRUN)} from Muster: leave them out of env"
            ),
            at=".env",
        ),
        Rule(
            cel=(
                "self.name != 'worker' || !has(self.volumeMounts) || self.volumeMounts.all(mount,"
                " !(mount.mountPath in ['/muster', '/dev/shm', '/dev/shm/']) && !mount.mountPath.startsWith('/muster/'))"
            ),
            holds=lambda container: (
                container.name != WORKER
                or not any(_is_muster_path(mount.mount_path) for mount in container.volume_mounts or ())
            ),
            message=(
                "spec.template.spec.containers: /muster and /dev/shm of the container worker belong to Muster:"
                " mount volumes elsewhere, for example at /data"
            ),
            at=".volumeMounts",
        ),
    )

    name: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """`worker` for the container that trains; any other name adds a container beside it."""
    command: tuple[str, ...] | None = None
    """The program of a container beside the worker; the worker's is Muster's agent."""
    args: tuple[str, ...] | None = None
    """The arguments of a container beside the worker; the worker's are Muster's."""
    resources: dict[str, Any] | None = None
    """The resources of a container beside the worker; the worker's are written in spec.resources."""
    env: (
        Annotated[tuple[EnvironmentVariable, ...], Field(max_length=256), ListType(keys=("name",))] | None
    ) = None
    """Environment variables."""
    volume_mounts: (
        Annotated[tuple[VolumeMount, ...], Field(max_length=64), ListType(keys=("mountPath",))] | None
    ) = None
    """Where volumes of spec.template.spec.volumes are mounted."""


class Volume(Partial):
    """A volume, as in any pod."""

    rules = (
        Rule(
            cel=f"!(self.name in [{', '.join(repr(name) for name in VOLUMES_OF_MUSTER)}])",
            holds=lambda volume: volume.name not in VOLUMES_OF_MUSTER,
            message=(
                f"spec.template.spec.volumes: the names {', '.join(VOLUMES_OF_MUSTER)} belong to volumes that Muster"
                " makes: write another name"
            ),
            found="self.name",
            at=".name",
        ),
    )

    name: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """Its name; run, shm, source and storage belong to Muster."""


class PodSpec(Partial):
    """The pod, as in any PodTemplateSpec; what is written here goes before what Muster would write."""

    model_config = ConfigDict(json_schema_extra=_opaque(_POD_FIELDS))
    rules = tuple(
        Rule(
            cel=f"!has(self.{field})",
            holds=lambda pod, attribute=attribute: getattr(pod, attribute) is None,
            message=f"spec.template.spec.{field} belongs to Muster, {why}: leave it out",
            at=f".{field}",
        )
        for field, attribute, why in (
            ("hostname", "hostname", "by which the workers find each other"),
            ("subdomain", "subdomain", "by which the workers find each other"),
            ("restartPolicy", "restart_policy", "which replaces lost pods itself"),
        )
    )

    containers: Annotated[tuple[Container, ...], Field(max_length=16), ListType(keys=("name",))] | None = None
    """Containers by name: `worker` is the one that trains."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=64), ListType(keys=("name",))] | None = None
    """Volumes beside those that Muster makes."""
    termination_grace_period_seconds: Annotated[Int, Field(ge=5, le=86_400)] | None = None
    """How long a worker has to save a checkpoint when its pod is asked to end, in seconds. Absent: 30."""
    hostname: str | None = None
    """Belongs to Muster."""
    subdomain: str | None = None
    """Belongs to Muster."""
    restart_policy: str | None = None
    """Belongs to Muster."""


class PodMetadata(Model):
    """Labels and annotations of the worker pods."""

    labels: (
        Annotated[
            dict[str, Annotated[str, StringConstraints(max_length=63)]],
            Field(max_length=64),
            Rule(
                cel=(
                    "self.all(key, !key.startsWith('muster.dev/') && !(key in"
                    f" [{', '.join(repr(key) for key in SET_BY_MUSTER)}]))"
                ),
                holds=lambda labels: (
                    not any(key.startswith("muster.dev/") or key in SET_BY_MUSTER for key in labels)
                ),
                message=(
                    "spec.template.metadata.labels: muster.dev/* and"
                    f" {', '.join(SET_BY_MUSTER)} belong to Muster: write other keys"
                ),
            ),
        ]
        | None
    ) = None
    """Labels beside those that Muster sets."""
    annotations: dict[str, str] | None = None
    """Annotations."""


class PodTemplate(Model):
    """A partial PodTemplateSpec, laid over the pod that Muster builds by the rules of a strategic merge patch.

    For everything that has no field of its own: images, node selectors, tolerations, volumes, service accounts.
    The container that trains is named `worker`; for example
    `{spec: {nodeSelector: {disk: nvme}, containers: [{name: worker, image: registry.example/my-train:1}]}}`.
    """

    metadata: PodMetadata | None = None
    """Labels and annotations."""
    spec: PodSpec | None = None
    """The pod."""


class _KeptRaw:
    """Validates as the model, keeps the dict: pods stay plain JSON from the manifest to the API server."""

    def __get_pydantic_core_schema__(
        self, _source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def check(value: Any, validate: core_schema.ValidatorFunctionWrapHandler) -> Any:
            validate(value)
            return value

        return core_schema.no_info_wrap_validator_function(
            check,
            handler.generate_schema(PodTemplate),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )


RawPodTemplate = Annotated[dict[str, Any], _KeptRaw()]
