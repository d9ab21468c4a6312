"""TrainingJob: what to train, on how many workers, and what to do when something fails."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from muster.api.base import Bool, Int, Model, PlainInt
from muster.api.common import OPERATOR, Metadata
from muster.api.compression import Compression
from muster.api.immutable import frozen_fields
from muster.api.lists import ListType
from muster.api.names import AutoOrCount, ObjectName, PositiveDecimal, matches
from muster.api.resources import IS_GPU, TPU, Resources
from muster.api.rules import Rule, product_in_cel
from muster.api.storage import Storage
from muster.api.template import RawTrainingPodTemplate
from muster.api.trainingjob_status import TrainingJobStatus
from muster.api.workload import Checkpoint, Distillation, InitialModel, Optimisation, Recipe, Script, Source, Strategy

MAX_NAME, MAX_REPLICAS = 40, 10_000  # name, rank and attempt together fit the 63 characters of a host name
A_YEAR = 31_536_000

Seconds = Annotated[Int, Field(ge=0, le=A_YEAR)]


class Elastic(Model):
    """Lets the number of workers change while the job trains. Absent: it is fixed.

    Then `kubectl scale` and autoscalers may change spec.replicas between the two, and a job that loses workers goes on
    with the others until they have successors. Whoever comes or goes, the others save and form the group anew; with
    parameter servers they just go on. Of a recipe, no step is lost, the batch size stays what it was over all workers
    together, and every sample is used once an epoch. A script is started again, and has what it has saved itself.
    """

    rules = (
        Rule(
            cel="self.minReplicas <= self.maxReplicas",
            holds=lambda elastic: elastic.min_replicas <= elastic.max_replicas,
            message="minReplicas may not be above maxReplicas: lower it",
        ),
    )

    min_replicas: Annotated[PlainInt, Field(ge=1, le=MAX_REPLICAS)]
    """The job goes on with as few workers as this, and waits below."""
    max_replicas: Annotated[PlainInt, Field(ge=1, le=MAX_REPLICAS)]
    """spec.replicas may be raised up to this."""


class FailurePolicy(Model):
    """What happens when something fails.

    A process that ends badly is started again inside its pod, together with its peers, from the newest checkpoint. A
    pod that is lost, with or without its node, is replaced by one that takes the same rank; the other pods stay.
    Each of these counts as one restart, told in `status.restarts` with its cause and what it cost.
    """

    max_restarts: Annotated[Int, Field(ge=0, le=10_000)] = 6
    """How many restarts the job may have over its whole life. One more failure ends it as Failed. 0: none."""
    permanent_exit_codes: Annotated[
        tuple[Annotated[Int, Field(ge=1, le=255)], ...], Field(max_length=64), ListType(unique=True)
    ] = (2,)
    """Exit codes, from 1 to 255, that end the job at once because another try would fail alike.

    The default is 2, with which recipes and programs that read their arguments by argparse say that these are wrong.
    Every other failure is retried. A process killed by signal n has exit code 128 + n.
    """
    hang_timeout_seconds: Annotated[Int, Field(ge=1, le=A_YEAR)] | None = None
    """Restart all processes when none has reported progress for so many seconds. Absent: they may hang for ever.

    Of recipes, and of scripts that report. Each process prints where it stands before it is stopped. Make it longer
    than the longest time between two reports: loading the data, an evaluation, writing a checkpoint.
    """
    node_lost_seconds: Seconds = 0
    """How many seconds after its node became unreachable a pod is given up and replaced. 0: at once.

    A node is called unreachable by Kubernetes itself, by default after 40 to 50 seconds of silence.
    """


class Network(Model):
    """Which of a pod's networks training uses. How a pod gets them is the cluster's.

    Devices are asked for by `resources`, such as `rdma/hca`; a second interface by what the cluster's network plugin
    wants in `template`, such as an annotation of Multus.
    """

    interface: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=15),
            matches(
                r"^[0-9A-Za-z][-0-9A-Za-z_.]*$", "write the name of a network interface inside of the pod, like net1"
            ),
        ]
        | None
    ) = None
    """By which processes exchange gradients, for example net1 (GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME)."""
    rdma_devices: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=255),
            matches(
                r"^[=^]{0,2}[0-9A-Za-z][-0-9A-Za-z_,:.]*$", "write devices as NCCL_IB_HCA has them, like mlx5_0,mlx5_1"
            ),
        ]
        | None
    ) = None
    """The InfiniBand or RoCE devices that NCCL uses, as its NCCL_IB_HCA: mlx5 is every one whose name begins so."""


class Preflight(Model):
    """What a worker's machine has to be able to do. Looked at before the first step, and told in `status.preflight`.

    A worker that can do less is replaced by one on another node, which counts as a restart with the cause
    PreflightFailed. Of recipes.
    """

    min_megabytes_per_second: PositiveDecimal | None = None
    """To and from the better of its two neighbours, both directions together, in quotes, for example "1000".

    Of a worker of parameter servers: to and from the best of these.
    """
    max_latency_milliseconds: PositiveDecimal | None = None
    """There and back, by the better of the two, in quotes, for example "1"."""
    min_gigaflops: PositiveDecimal | None = None
    """Products of matrices of 32 bits on one device, in quotes, for example "10000"."""


class Scheduling(Model):
    """When and where the workers are placed."""

    gang: Literal["auto", "none", "coscheduling", "volcano"] = "auto"
    """auto: no pod is made before the cluster has room for all of them. none: each starts when it is placed.

    coscheduling and volcano: all pods are made at once, in a PodGroup of the scheduler plugin Coscheduling or of
    Volcano, whose scheduler places them together or none. Its name is scheduler-plugins-scheduler or volcano, or what
    spec.template.spec.schedulerName says. Waiting for it counts in spec.activeDeadlineSeconds, for the pods are there.
    """
    queue_name: ObjectName | None = None
    """The LocalQueue of Kueue, in the same namespace, in which the job waits for its quota.

    Its Workload is made by Muster; Muster itself counts no room then. Evicted (preempted, deactivated, not ready in
    time), the workers save a checkpoint and leave, and the job waits in its queue again. Not together with `elastic`.
    """
    priority_class_name: ObjectName | None = None
    """The PriorityClass of the workers. Absent: the cluster's default."""
    topology_key: Annotated[str, StringConstraints(max_length=317)] | None = None
    """A node label, like topology.kubernetes.io/zone: all workers are placed on nodes with one value of it.

    Which one is decided when the job is admitted, by where there is room; so `gang` must be auto and no queue named.
    """

    rules = (
        Rule(
            cel="!has(self.topologyKey) || self.topologyKey == '' || self.gang == 'auto' && !has(self.queueName)",
            holds=lambda scheduling: (
                not scheduling.topology_key or (scheduling.gang == "auto" and scheduling.queue_name is None)
            ),
            message=(
                "the domain is chosen when Muster admits the workers together: write gang auto and no queueName, or"
                " leave it out"
            ),
            at=".topologyKey",
        ),
    )


def _nccl_has_gpus(spec: "TrainingJobSpec") -> bool:
    return spec.backend != "nccl" or spec.resources.gpus > 0 or bool(spec.resources.claims)


# 0 where it depends on the pod's GPUs or TPUs: the worker counts them.
_PROCESSES_IN_CEL = (
    "type(self.processesPerWorker) != string ? int(self.processesPerWorker) :"
    f" has(self.resources) && has(self.resources.limits) && self.resources.limits.exists(k, ({IS_GPU} || k == '{TPU}')"
    " && sign(quantity(string(self.resources.limits[k]))) > 0) ? 0 : 1"
)
_HAS_TPUS_IN_CEL = (
    f"(has(self.resources) && has(self.resources.limits) && '{TPU}' in self.resources.limits"
    f" && sign(quantity(string(self.resources.limits['{TPU}']))) > 0)"
)
_ON_XLA_IN_CEL = f"(self.backend == 'xla' || self.backend == 'auto' && {_HAS_TPUS_IN_CEL})"
_WAYS_IN_CEL = product_in_cel(*(f"self.strategy.mesh.{way}" for way in ("data", "tensor", "pipeline")))

# What may change while the job exists: whether and how long it runs, and what happens when something fails.
CHANGEABLE = ("activeDeadlineSeconds", "failurePolicy", "podCleanup", "suspend", "ttlSecondsAfterFinished")


def _is_one_process_without_tpus(spec: "TrainingJobSpec") -> bool:
    processes = int(not spec.resources.gpus) if spec.processes_per_worker == "auto" else spec.processes_per_worker
    return spec.backend != "xla" or spec.resources.tpus > 0 or spec.replicas * processes == 1


def _is_one_process_a_chip(spec: "TrainingJobSpec") -> bool:
    free = spec.recipe is None or not spec.on_xla or not spec.resources.tpus
    return free or spec.processes_per_worker in ("auto", spec.resources.tpus)


def _replicas_within_bounds(spec: "TrainingJobSpec") -> bool:
    return spec.elastic is None or spec.elastic.min_replicas <= spec.replicas <= spec.elastic.max_replicas


def _is_divided_where_all_can_write(spec: "TrainingJobSpec") -> bool:
    if spec.strategy is None or spec.strategy.type == "ddp":
        return True
    servers = spec.strategy.type == "parameterServer"
    whole = (spec.strategy.parameter_servers or 1) == 1 if servers else spec.replicas == 1
    return whole or (spec.storage is not None and spec.storage.persistent_volume_claim is not None)


def _grows_in_one_way(spec: "TrainingJobSpec") -> bool:
    return (
        spec.elastic is None
        or spec.strategy is None
        or (spec.strategy.type in ("ddp", "fsdp", "parameterServer") and spec.strategy.mesh is None)
    )


def _ways_fit(spec: "TrainingJobSpec") -> bool:
    if spec.strategy is None or spec.strategy.mesh is None:
        return True
    mesh = spec.strategy.mesh
    each = spec.processes_per_worker if spec.processes_per_worker != "auto" else int(not spec.resources.accelerators)
    found, ways = spec.replicas * int(each), (mesh.data or 1) * (mesh.tensor or 1) * (mesh.pipeline or 1)
    if mesh.data is None or {"tensor": mesh.tensor, "pipeline": mesh.pipeline}.get(spec.strategy.type, 1) is None:
        return found % ways == 0
    return found in (0, ways)


class TrainingJobSpec(Model):
    """What is wanted.

    Once the job exists, only suspend, failurePolicy, activeDeadlineSeconds, ttlSecondsAfterFinished and podCleanup can
    be changed, and replicas where there is elastic.
    """

    # Not Int: the scale subresource does not read 3.0.
    replicas: Annotated[int, Field(strict=True, ge=1, le=MAX_REPLICAS)] = 1
    """How many worker pods train together, parameter servers not counted. May change only where there is `elastic`."""
    elastic: Elastic | None = None
    processes_per_worker: AutoOrCount = "auto"
    """How many processes (ranks) each worker runs: `auto` or a number. auto: one a GPU or TPU, at least one.

    With parameter servers it is one. Of GPUs that `resources.claims` has, write the number that a pod gets.
    """
    backend: Literal["auto", "nccl", "gloo", "xla"] = "auto"
    """How processes exchange gradients: nccl between GPUs, xla between TPUs, gloo anywhere.

    auto: xla where pods ask for google.com/tpu, nccl where they ask for GPUs or find that they have claimed some. xla
    is for recipes with strategy ddp, and computes by torch_xla, which the image must have; without TPUs it is one
    process.
    """
    recipe: Recipe | None = None
    """What runs: this or `script`."""
    script: Script | None = None
    """What runs: this or `recipe`."""
    source: Source | None = None
    """Where the code is when it is not in the image."""
    strategy: Strategy | None = None
    optimisation: Optimisation | None = None
    compression: Compression | None = None
    """Steps that make the trained model smaller, in order: `[{clip: {epsilon: "3"}}, {quantize: {bits: 8}}]`.

    Of recipes. What each has gained and cost is in `status.model.compression`.
    """
    resources: Resources = Resources()
    template: RawTrainingPodTemplate = Field(default_factory=dict)
    storage: Storage | None = None
    checkpoint: Checkpoint = Checkpoint()
    initial_model: InitialModel | None = None
    distillation: Distillation | None = None
    failure_policy: FailurePolicy = FailurePolicy()
    preflight: Preflight | None = None
    success_policy: Literal["AllWorkers", "Rank0"] = "AllWorkers"
    """When the job has succeeded: when all workers have ended with exit code 0, or as soon as rank 0's has."""
    scheduling: Scheduling = Scheduling()
    network: Network | None = None
    suspend: Bool = False
    """true: the workers save a checkpoint and leave, and no pod is there until this is false again.

    Then the job waits for room like a new one and goes on from that checkpoint. Neither counts as a restart. A script
    has to save by itself what it is to go on from: its processes get a SIGTERM.
    """
    active_deadline_seconds: Annotated[Int, Field(ge=1, le=A_YEAR)] | None = None
    """The job fails when it runs longer than so many seconds since its pods were made. Absent: it may run for ever.

    Waiting for room does not count, and a suspension sets the clock back.
    """
    ttl_seconds_after_finished: Seconds | None = None
    """The job is deleted, with its pods, so many seconds after its end. Absent: it stays. Its model stays always."""
    pod_cleanup: Literal["All", "Running", "None"] = "Running"
    """Which pods are deleted when the job ends: all, those that still run (the others keep their logs), or none."""
    managed_by: Annotated[
        str,
        StringConstraints(min_length=1, max_length=63),
        matches(
            r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-0-9A-Za-z._~!$&'()*+,;=:@%]+$",
            f"write a domain and a path, like {OPERATOR}",
        ),
    ] = OPERATOR
    """Who looks after the job. Any other than muster.dev/operator: Muster leaves it alone (MultiKueue)."""

    @property
    def on_xla(self) -> bool:
        """Whether it computes by XLA."""
        return self.backend == "xla" or (self.backend == "auto" and self.resources.tpus > 0)

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.recipe) || has(self.script)",
            holds=lambda spec: spec.recipe is not None or spec.script is not None,
            message="nothing to run: write spec.recipe (a Muster recipe) or spec.script (a torchrun program)",
            reason="FieldValueRequired",
        ),
        Rule(
            cel="!has(self.recipe) || !has(self.script)",
            holds=lambda spec: spec.recipe is None or spec.script is None,
            message="recipe and script exclude each other: leave one of them out",
        ),
        Rule(
            cel="!has(self.script) || !has(self.strategy)",
            holds=lambda spec: spec.script is None or spec.strategy is None,
            message="this is for recipes, a script distributes its model itself: leave it out",
            at=".strategy",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel=(
                "!has(self.strategy) || self.strategy.type == 'ddp' || (self.strategy.type == 'parameterServer' ?"
                " !has(self.strategy.parameterServers) || self.strategy.parameterServers == 1 : self.replicas == 1) ||"
                " has(self.storage) && has(self.storage.persistentVolumeClaim)"
            ),
            holds=_is_divided_where_all_can_write,
            message=(
                "with this spec.strategy no pod has the whole model:"
                " write a persistentVolumeClaim, in which all of them save their parts"
            ),
            at=".storage",
        ),
        Rule(
            cel=(
                "!has(self.elastic) || !has(self.strategy) ||"
                " self.strategy.type in ['ddp', 'fsdp', 'parameterServer'] && !has(self.strategy.mesh)"
            ),
            holds=_grows_in_one_way,
            message=(
                "the number of workers may change: write type ddp, fsdp or parameterServer and no mesh, which go with"
                " any number, or leave spec.elastic out"
            ),
            at=".strategy",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel=(
                "!has(self.strategy) || !has(self.strategy.mesh) ||"
                f" [self.replicas * ({_PROCESSES_IN_CEL})].all(found,"
                f" has(self.strategy.mesh.data) && (self.strategy.type != 'tensor' || has(self.strategy.mesh.tensor))"
                f" && (self.strategy.type != 'pipeline' || has(self.strategy.mesh.pipeline))"
                f" ? found in [0, {_WAYS_IN_CEL}] : found % {_WAYS_IN_CEL} == 0)"
            ),
            holds=_ways_fit,
            message=(
                "data times tensor times pipeline must be the number of processes,"
                " spec.replicas times spec.processesPerWorker: change one of them, or leave data out"
            ),
            at=".strategy.mesh",
        ),
        Rule(
            cel=(
                "!has(self.strategy) || self.strategy.type != 'parameterServer' ||"
                " type(self.processesPerWorker) == string || int(self.processesPerWorker) == 1"
            ),
            holds=lambda spec: (
                spec.strategy is None
                or spec.strategy.type != "parameterServer"
                or spec.processes_per_worker in ("auto", 1)
            ),
            message="a worker of parameter servers is one process: write 1 or auto, and more replicas",
            at=".processesPerWorker",
        ),
        Rule(
            cel="!has(self.distillation) || has(self.initialModel) && !has(self.script)",
            holds=lambda spec: spec.distillation is None or (spec.initial_model is not None and spec.script is None),
            message="a recipe learns from the model of spec.initialModel: write that, too, or leave this out",
            at=".distillation",
        ),
        Rule(
            cel="!has(self.script) || !has(self.preflight)",
            holds=lambda spec: spec.script is None or spec.preflight is None,
            message="this is for recipes, a script is run at once: leave it out",
            at=".preflight",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="!has(self.script) || !has(self.compression)",
            holds=lambda spec: spec.script is None or spec.compression is None,
            message="this is for recipes, a script writes its model itself: leave it out",
            at=".compression",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="!has(self.script) || !has(self.optimisation)",
            holds=lambda spec: spec.script is None or spec.optimisation is None,
            message="this is for recipes, a script sets its learning rate itself: leave it out",
            at=".optimisation",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel=(
                "self.backend != 'nccl' || has(self.resources) && ("
                "has(self.resources.claims) && size(self.resources.claims) > 0 || has(self.resources.limits) &&"
                f" self.resources.limits.exists(k, {IS_GPU}"
                " && sign(quantity(string(self.resources.limits[k]))) > 0))"
            ),
            holds=_nccl_has_gpus,
            message=(
                "nccl needs GPUs and spec.resources asks for none:"
                " write gloo, or add nvidia.com/gpu to its limits, or a claim"
            ),
            at=".backend",
        ),
        Rule(
            cel=f"self.backend != 'xla' || {_HAS_TPUS_IN_CEL} || self.replicas * ({_PROCESSES_IN_CEL}) == 1",
            holds=_is_one_process_without_tpus,
            message=(
                f"without {TPU} in spec.resources.limits xla is one process on a CPU, which cannot join others: write"
                f" replicas 1 and processesPerWorker 1, or gloo, or add {TPU}"
            ),
            at=".backend",
        ),
        Rule(
            cel=(
                f"!has(self.recipe) || !{_ON_XLA_IN_CEL} || !{_HAS_TPUS_IN_CEL} ||"
                " type(self.processesPerWorker) == string ||"
                f" int(self.processesPerWorker) == quantity(string(self.resources.limits['{TPU}'])).asInteger()"
            ),
            holds=_is_one_process_a_chip,
            message=f"each chip is one process's: write auto, or the number of {TPU} in spec.resources.limits",
            at=".processesPerWorker",
        ),
        Rule(
            cel=f"!has(self.strategy) || self.strategy.type == 'ddp' || !{_ON_XLA_IN_CEL}",
            holds=lambda spec: spec.strategy is None or spec.strategy.type == "ddp" or not spec.on_xla,
            message="TPUs and the backend xla go with type ddp alone: write that, or another spec.backend",
            at=".strategy",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel=f"!has(self.elastic) || !{_ON_XLA_IN_CEL}",
            holds=lambda spec: spec.elastic is None or not spec.on_xla,
            message=(
                "this and the backend xla exclude each other, a slice of TPUs has a fixed number of hosts: leave it"
                " out, or write another spec.backend"
            ),
            at=".elastic",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel=(
                "!has(self.elastic) ||"
                " self.replicas >= self.elastic.minReplicas && self.replicas <= self.elastic.maxReplicas"
            ),
            holds=_replicas_within_bounds,
            message="this must not be below spec.elastic.minReplicas nor above spec.elastic.maxReplicas",
            at=".replicas",
        ),
        Rule(
            cel="has(self.elastic) || self.replicas == oldSelf.replicas",
            holds=None,
            message=(
                "spec.replicas cannot change once the job exists unless it has spec.elastic:"
                " delete it and create another"
            ),
            at=".replicas",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="!has(self.elastic) || !has(self.scheduling) || !has(self.scheduling.queueName)",
            holds=lambda spec: spec.elastic is None or spec.scheduling.queue_name is None,
            message=(
                "this and spec.scheduling.queueName exclude each other, Kueue admits a fixed number of workers:"
                " leave one of them out"
            ),
            at=".elastic",
            reason="FieldValueForbidden",
        ),
    )


TrainingJobSpec.rules += (frozen_fields(TrainingJobSpec, changeable=(*CHANGEABLE, "replicas")),)


class TrainingJob(Model):
    """A distributed training: some worker pods that train one model together, through failures, to its end.

    It needs `spec.recipe` or `spec.script`; everything else has a default or may be left out.
    """

    rules = (
        Rule(
            cel=(
                f"size(self.metadata.name) <= {MAX_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
            ),
            holds=lambda job: (
                len(job.metadata.name) <= MAX_NAME
                and re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", job.metadata.name) is not None
            ),
            message=(
                f"metadata.name: the workers' host names are made from it: write at most {MAX_NAME} lower-case"
                " letters, digits and -, beginning with a letter"
            ),
            found="self.metadata.name",
        ),
        Rule(
            cel="!has(self.spec.initialModel) || self.spec.initialModel.fromTrainingJob != self.metadata.name",
            holds=lambda job: (
                job.spec.initial_model is None or job.spec.initial_model.from_training_job != job.metadata.name
            ),
            message="spec.initialModel.fromTrainingJob: a job cannot start from its own model: name another",
        ),
    )

    api_version: Literal["muster.dev/v1alpha1"] = "muster.dev/v1alpha1"
    kind: Literal["TrainingJob"] = "TrainingJob"
    metadata: Metadata
    spec: TrainingJobSpec
    status: TrainingJobStatus = TrainingJobStatus()
