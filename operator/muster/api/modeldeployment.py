"""ModelDeployment: which trained model to serve, on how many replicas, and how they are replaced."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from muster.api.base import Bool, Int, Model, PlainInt
from muster.api.common import Metadata
from muster.api.compression import Compression
from muster.api.lists import ATOMIC
from muster.api.modeldeployment_status import ModelDeploymentStatus
from muster.api.names import (
    MAX_GROUPS,
    DecimalText,
    GroupsOrPercent,
    ObjectName,
    PositiveDecimal,
    RelativePath,
    matches,
)
from muster.api.resources import Resources
from muster.api.rules import Rule, product_in_cel
from muster.api.template import RawPodTemplate

MAX_NAME = 40
"""With the group's number and the count of pods made before, a pod's name fits the 63 characters of a host name."""
A_DAY = 86_400

Port = Annotated[PlainInt, Field(ge=1, le=65_535)]


class ModelVolume(Model):
    """A directory on an existing claim in the same namespace, as a training job publishes its model."""

    claim_name: ObjectName
    """The claim's name. With several replicas it should be ReadWriteMany or ReadOnlyMany."""
    path: RelativePath | None = None
    """The model's directory on the volume, the one with model.json, for example `digits/model`. Absent: the root."""


class ModelSource(Model):
    """Where the trained model is: one of the three."""

    rules = (
        Rule(
            cel="[has(self.fromTrainingJob), has(self.persistentVolumeClaim), has(self.uri)].exists_one(one, one)",
            holds=lambda source: (
                sum(one is not None for one in (source.from_training_job, source.persistent_volume_claim, source.uri))
                == 1
            ),
            message="write exactly one of fromTrainingJob, persistentVolumeClaim and uri",
        ),
    )

    from_training_job: ObjectName | None = None
    """The TrainingJob, in the same namespace, whose model is served. The deployment waits until there is one.

    It is served as it was when this spec was first seen; what that job (or another of its name) writes later is served
    with the next change of the spec, such as another `rollout.restart`.
    """
    persistent_volume_claim: ModelVolume | None = None
    uri: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = None
    """Where each pod fetches the model's directory from: whatever fsspec reads, such as https://… and s3://….

    Credentials come from the template: the container worker's env and envFrom.
    """
    sha256: (
        Annotated[
            str,
            StringConstraints(min_length=64, max_length=64),
            matches("^[0-9a-f]{64}$", "write the 64 hexadecimal digits of status.model.sha256 of the training job"),
        ]
        | None
    ) = None
    """The SHA-256 of the model's model.json: a replica refuses to serve any other.

    Absent: the training job's with fromTrainingJob, and any otherwise.
    """


class Parallelism(Model):
    """How the processes of one group divide the work. The product is their number."""

    data: Annotated[Int, Field(ge=1, le=1000)] = 1
    """Parts that a batch is split into."""
    tensor: Annotated[Int, Field(ge=1, le=1000)] = 1
    """Ways in which the layers are split that the recipe's tensor_plan names."""
    pipeline: Annotated[Int, Field(ge=1, le=1000)] = 1
    """Ways in which the sequence of layers is split, as the recipe names them."""

    @property
    def processes(self) -> int:
        return self.data * self.tensor * self.pipeline


_PROCESSES_IN_CEL = product_in_cel(*(f"self.parallelism.{way}" for way in ("data", "tensor", "pipeline")))


class Group(Model):
    """What one replica consists of. Absent: one pod with one process."""

    size: Annotated[Int, Field(ge=1, le=1000)] = 1
    """How many pods answer together. One of them takes the requests; they start, leave and are replaced together."""
    parallelism: Parallelism | None = None
    """How their processes divide the work. Absent: one process a pod, and each batch is split over all."""

    rules = (
        Rule(
            cel=f"!has(self.parallelism) || {_PROCESSES_IN_CEL} % (has(self.size) ? self.size : 1) == 0",
            holds=lambda group: group.parallelism is None or group.parallelism.processes % group.size == 0,
            message=(
                "data times tensor times pipeline is the number of processes, and every one of the group's pods has"
                " as many: write a multiple of spec.group.size"
            ),
            at=".parallelism",
        ),
    )

    @property
    def divided(self) -> Parallelism:
        return self.parallelism if self.parallelism is not None else Parallelism(data=self.size)


class Batching(Model):
    """How requests that come at the same time are computed together."""

    max_batch_size: Annotated[Int, Field(ge=1, le=65_536)] = 1
    """How many samples may be computed together, of requests that wait at the same time. 1: each by itself."""
    max_delay_milliseconds: Annotated[Int, Field(ge=0, le=10_000)] = 0
    """How long a request may wait for others while the model is idle. 0: not at all."""


class Explain(Model):
    """What each number of a request's inputs has to do with its answer, told at /v2/models/NAME/explain.

    Absent: there is no such path.
    """

    method: Literal["integratedGradients", "saliency", "occlusion"]
    """How that is computed, by captum.

    integratedGradients: by gradients on the way from the baseline to the input. All together they are the difference of
    the two answers.

    saliency: by the size of the gradient alone. The fastest.

    occlusion: by how much the answer changes when a part of the input is the baseline. Needs no gradients.
    """
    baseline: Annotated[
        str,
        StringConstraints(min_length=1, max_length=16),
        matches(r"^(zeros|-?[0-9]+(\.[0-9]+)?)$", 'write zeros, or a decimal number in quotes, like "0.5"'),
    ] = "zeros"
    """What each number of the inputs is compared with: zeros, or a number in quotes, for example "0.5"."""

    rules = (
        Rule(
            cel="self.method != 'saliency' || !has(self.baseline) || self.baseline == 'zeros'",
            holds=lambda explain: explain.method != "saliency" or explain.baseline == "zeros",
            message="method is saliency, which compares with nothing: leave this out",
            at=".baseline",
        ),
    )


class Rollout(Model):
    """How groups are replaced when the spec changes. Counts are of groups, or per cent of spec.replicas.

    Requests go on being answered: an old group leaves when its successor answers, or within `maxUnavailable`.
    """

    max_surge: GroupsOrPercent = 1
    """How many groups may be there beyond spec.replicas meanwhile; a percentage is rounded up."""
    max_unavailable: GroupsOrPercent = 0
    """How many groups of spec.replicas may be missing meanwhile; a percentage is rounded down.

    Above 0, a rollout goes on where there is no room for another group. It is the disruption budget as well: so many
    groups may be evicted at once when nodes are drained. With 0, their successors are made as soon as a node is
    cordoned, and they leave when those answer.
    """
    partition: Annotated[Int, Field(ge=0, le=MAX_GROUPS)] = 0
    """Groups with a number below it keep the revision that they have."""
    progress_deadline_seconds: Annotated[Int, Field(ge=1, le=A_DAY)] = 600
    """A rollout in which no further group has become ready for so many seconds has failed.

    While a pod waits for a node that takes it, they are not counted.
    """
    on_failure: Literal["Rollback", "Pause"] = "Rollback"
    """What then happens: all groups get the last good revision back, or all stay as they are."""
    paused: Bool = False
    """true: no group is replaced by one of another revision. Lost groups are."""
    restart: Annotated[str, StringConstraints(max_length=128)] = ""
    """Any text, like a date; when it changes, all groups are restarted in a rolling way."""
    drain_seconds: Annotated[Int, Field(ge=1, le=3600)] = 30
    """The longest that a group goes on answering after it was told to leave."""
    revision_history_limit: Annotated[Int, Field(ge=0, le=100)] = 5
    """How many revisions that no group has any more are kept."""

    rules = (
        Rule(
            cel=(
                "!has(self.maxSurge) || !has(self.maxUnavailable) || !(self.maxSurge == 0 || self.maxSurge == '0%')"
                " || !(self.maxUnavailable == 0 || self.maxUnavailable == '0%')"
            ),
            holds=lambda rollout: not (rollout.max_surge in {0, "0%"} and rollout.max_unavailable in {0, "0%"}),
            message="maxSurge and maxUnavailable are both 0, so that no group could ever be replaced: raise one",
        ),
    )


class CanaryStep(Model):
    """One step of a canary."""

    weight: Annotated[Int, Field(ge=1, le=100)]
    """The share of the groups, in per cent and rounded up, that have the new revision.

    With `gateway`, the share of the requests as well, exactly.
    """
    pause_seconds: Annotated[Int, Field(ge=0, le=A_DAY)] = 60
    """How many seconds its groups are watched, once they answer, before the next step."""


class Analysis(Model):
    """What each group of the new revision has to keep, over half a minute.

    Errors are judged from twenty requests on, latency from a hundred.
    """

    max_error_rate: DecimalText | None = None
    """The largest share of requests that may fail by its fault (HTTP 500 and above), in quotes, such as "0.01"."""
    max_latency_p99_milliseconds: Annotated[Int, Field(ge=1, le=3_600_000)] | None = None
    """The latency that 99 of 100 requests keep."""


class Gateway(Model):
    """A Gateway of the Gateway API, to which an HTTPRoute of the deployment's name is added.

    By it, exactly `weight` per cent of the requests for the path /v2/models/NAME that come through the Gateway go to
    the new revision. Where the Gateway API, or the Gateway, is not there, no other revision is rolled out.
    """

    name: ObjectName
    """Its name, in the same namespace."""


class Canary(Model):
    """A rollout in steps, and what the groups of the new revision have to keep in all of them.

    A revision that does not keep it is given up, as `rollout.onFailure` says. Absent: an ordinary rolling update.
    """

    steps: Annotated[tuple[CanaryStep, ...], Field(max_length=20), ATOMIC] = ()
    """In order; then all groups. Without steps it is an ordinary rolling update, that is judged."""
    analysis: Analysis | None = None
    gateway: Gateway | None = None


class Failover(Model):
    """When a group is given up and replaced."""

    unreachable_seconds: Annotated[Int, Field(ge=1, le=3600)] = 3
    """How many seconds a group may leave the operator without an answer while others give one.

    Then no more requests are sent to it, and another takes its place on another node.
    """
    node_lost_seconds: Annotated[Int, Field(ge=0, le=A_DAY)] = 0
    """How many seconds after its node became unreachable a group is replaced. 0: at once.

    A node is called unreachable by Kubernetes itself, by default after 40 to 50 seconds of silence.
    """
    max_group_restarts: Annotated[Int, Field(ge=0, le=1000)] = 10
    """How many times processes of a group may die and be started again in their pods before it gets new ones.

    The old group leaves when the new one answers. A revision that is being rolled out is given up after three times.
    """


class Spread(Model):
    """Over which parts of the cluster the groups are spread, so that none takes all of them with it. Absent: nodes.

    The pods of a group are kept together there, as far as there is room.
    """

    topology_key: Annotated[str, StringConstraints(min_length=1, max_length=317)] = "topology.kubernetes.io/zone"
    """The node label whose values are the parts."""
    policy: Literal["Prefer", "Require"] = "Prefer"
    """Prefer: as well as there is room. Require: a group waits rather than be placed unevenly."""


class Autoscaling(Model):
    """Makes a HorizontalPodAutoscaler of the deployment's name, which then says how many groups there are.

    Absent: nobody but you changes spec.replicas.
    """

    min_replicas: Annotated[PlainInt, Field(ge=1, le=MAX_GROUPS)] = 1
    """The fewest groups."""
    max_replicas: Annotated[PlainInt, Field(ge=1, le=MAX_GROUPS)]
    """The most groups."""
    metric: Literal["requestsPerSecond", "cpu"] = "requestsPerSecond"
    """What is held near the target, for each group.

    cpu is in per cent of `resources.requests.cpu`, as metrics-server measures it. requestsPerSecond is read as the
    pods' metric `muster_serve_requests_per_second`, which a metrics adapter has to provide.
    """
    target: PositiveDecimal
    """The target, in quotes, for example "50"."""

    rules = (
        Rule(
            cel="!has(self.metric) || self.metric != 'cpu' || double(self.target) >= 1.0",
            holds=lambda scaling: scaling.metric != "cpu" or float(scaling.target) >= 1,
            message='cpu is in per cent: write at least "1"',
            at=".target",
        ),
        Rule(
            cel="(has(self.minReplicas) ? self.minReplicas : 1) <= self.maxReplicas",
            holds=lambda scaling: scaling.min_replicas <= scaling.max_replicas,
            message="minReplicas is above maxReplicas: raise the one or lower the other",
            at=".maxReplicas",
        ),
    )


class Service(Model):
    """How clients reach it: a Service of the deployment's name."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """As of any Service."""
    port: Port = 80
    """Where HTTP is answered."""
    grpc_port: Port = 9000
    """Where gRPC is answered."""

    rules = (
        Rule(
            cel="!has(self.port) || !has(self.grpcPort) || self.port != self.grpcPort",
            holds=lambda service: service.port != service.grpc_port,
            message="port and grpcPort are the same: change one of them",
            at=".grpcPort",
        ),
    )


_OTHERS = ("tensorflowServing", "custom")
"""The runtimes of which Muster knows what the kubelet says of their pods, and no more."""


def _of(*runtimes: str, cel: str, holds: Callable[[Any], bool], message: str, at: str) -> Rule:
    """Return a rule for those runtimes alone."""
    return Rule(
        cel=f"!has(self.runtime) || !(self.runtime in {list(runtimes)}) || ({cel})",
        holds=lambda spec: spec.runtime not in runtimes or holds(spec),
        message=message,
        at=at,
    )


def _containers(template: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return (template.get("spec") or {}).get("containers") or ()


class ModelDeploymentSpec(Model):
    """What is wanted. All of it may change at any time; what shapes the pods is rolled out."""

    model: ModelSource
    runtime: Literal["torch", "torchserve", "tensorflowServing", "custom"] = "torch"
    """What answers the requests.

    torch: Muster's own server, by one process or by those of a group.

    torchserve: the same, in front of TorchServe, which computes in workers of its own.

    tensorflowServing: TensorFlow's model server, and a SavedModel on a volume. `model.persistentVolumeClaim.path` is
    the directory with saved_model.pb, and if that is called by a number, such as `digits/3`, it is the model's version.

    custom: the template's container `worker` names an image that serves by itself, with a port named `http` (and one
    named `grpc`, if it has one) and probes. It finds the model at MUSTER_MODEL, by the name MUSTER_MODEL_NAME.
    """
    # Not Int: the scale subresource does not read 3.0.
    replicas: Annotated[int, Field(strict=True, ge=0, le=MAX_GROUPS)] = 1
    """How many groups answer; `kubectl scale` and autoscalers change it."""
    group: Group = Group()
    resources: Resources = Resources()
    template: RawPodTemplate = Field(default_factory=dict)
    batching: Batching = Batching()
    compression: Compression | None = None
    """Steps that make the model smaller before it is served, in order: `[{quantize: {bits: 8}}]`.

    It is done once, by a pod that computes on a CPU and writes the result beside the model, whose volume it must be
    able to write to. A step that costs more than its maxAccuracyDrop is not served. What each has gained and cost is in
    `status.model.compression`.
    """
    explain: Explain | None = None
    rollout: Rollout = Rollout()
    canary: Canary | None = None
    failover: Failover = Failover()
    spread: Spread | None = None
    autoscaling: Autoscaling | None = None
    service: Service = Service()
    suspend: Bool = False
    """true: no group is there until this is false again. The Service stays, with nobody behind it."""

    rules = (
        _of(
            "custom",
            cel=(
                "has(self.template) && has(self.template.spec) && has(self.template.spec.containers)"
                " && self.template.spec.containers.exists(one, one.name == 'worker')"
            ),
            holds=lambda spec: any(one["name"] == "worker" for one in _containers(spec.template)),
            message="spec.runtime is custom: write the container worker, with its image and a port named http",
            at=".template",
        ),
        Rule(
            cel=(
                "has(self.runtime) && self.runtime == 'custom'"
                " || !has(self.template) || !has(self.template.spec) || !has(self.template.spec.containers)"
                " || self.template.spec.containers.all(one,"
                " one.name != 'worker' || !has(one.command) && !has(one.args))"
            ),
            holds=lambda spec: (
                spec.runtime == "custom"
                or not any(
                    one["name"] == "worker" and {"command", "args"} & one.keys() for one in _containers(spec.template)
                )
            ),
            message="in the container worker, command and args are for runtime custom alone: leave them out",
            at=".template",
        ),
        _of(
            "torchserve",
            *_OTHERS,
            cel=(
                "!has(self.group) || (!has(self.group.parallelism) && (!has(self.group.size) || self.group.size == 1))"
            ),
            holds=lambda spec: spec.group == Group(),
            message="only the runtime torch knows of groups: leave this out",
            at=".group",
        ),
        _of(
            "torchserve",
            *_OTHERS,
            cel="!has(self.explain)",
            holds=lambda spec: spec.explain is None,
            message="only the runtime torch explains: leave this out",
            at=".explain",
        ),
        _of(
            "torchserve",
            *_OTHERS,
            cel="!has(self.compression) || size(self.compression) == 0",
            holds=lambda spec: not spec.compression,
            message="only the runtime torch compresses: leave this out, or compress in the training job",
            at=".compression",
        ),
        Rule(
            cel="!has(self.compression) || size(self.compression) == 0 || !has(self.model.uri)",
            holds=lambda spec: not spec.compression or spec.model.uri is None,
            message=(
                "the compressed model is written beside the model, and spec.model.uri is only read:"
                " name a volume or a training job, or leave this out"
            ),
            at=".compression",
        ),
        _of(
            "custom",
            cel="!has(self.model.uri)",
            holds=lambda spec: spec.model.uri is None,
            message="spec.runtime is custom, for which Muster fetches nothing: name a volume or a training job",
            at=".model.uri",
        ),
        _of(
            "tensorflowServing",
            cel="has(self.model.persistentVolumeClaim)",
            holds=lambda spec: spec.model.persistent_volume_claim is not None,
            message="spec.runtime is tensorflowServing, which serves a SavedModel: name its persistentVolumeClaim",
            at=".model",
        ),
        _of(
            *_OTHERS,
            cel="!has(self.model.sha256)",
            holds=lambda spec: spec.model.sha256 is None,
            message="only the runtimes torch and torchserve verify a checksum: leave this out",
            at=".model.sha256",
        ),
        _of(
            "custom",
            cel=(
                "!has(self.batching) || ((!has(self.batching.maxBatchSize) || self.batching.maxBatchSize == 1)"
                " && (!has(self.batching.maxDelayMilliseconds) || self.batching.maxDelayMilliseconds == 0))"
            ),
            holds=lambda spec: spec.batching == Batching(),
            message="spec.runtime is custom, which batches by itself: leave this out",
            at=".batching",
        ),
        _of(
            *_OTHERS,
            cel="!has(self.canary) || !has(self.canary.analysis)",
            holds=lambda spec: spec.canary is None or spec.canary.analysis is None,
            message="only the runtimes torch and torchserve tell of errors and latencies: leave this out",
            at=".canary.analysis",
        ),
    )


class ModelDeployment(Model):
    """A trained model behind a Service, answered for by some replicas that are replaced without a failed request.

    It needs `spec.model`; everything else has a default or may be left out.
    """

    rules = (
        Rule(
            cel=(
                f"size(self.metadata.name) <= {MAX_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
            ),
            holds=lambda deployment: (
                len(deployment.metadata.name) <= MAX_NAME
                and re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", deployment.metadata.name) is not None
            ),
            message=(
                f"metadata.name: the Service and the pods are named after it: write at most {MAX_NAME} lower-case"
                " letters, digits and -, beginning with a letter"
            ),
            found="self.metadata.name",
        ),
    )

    api_version: Literal["muster.dev/v1alpha1"] = "muster.dev/v1alpha1"
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    metadata: Metadata
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus = ModelDeploymentStatus()
