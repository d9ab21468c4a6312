"""TrainingJob: what to train, on how many workers, and what to do when something fails."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from pydantic_core import PydanticCustomError, core_schema

from muster.api.base import Bool, Int, Model
from muster.api.common import API_VERSION, IS_GPU, OPERATOR, Compression, Metadata, Resources, Storage
from muster.api.immutable import frozen_fields
from muster.api.lists import ATOMIC, ListType
from muster.api.names import Decimal, ObjectName, matches
from muster.api.quantity import parse_quantity
from muster.api.rules import Rule
from muster.api.template import RawPodTemplate
from muster.api.trainingjob_status import TrainingJobStatus
from muster.api.unsupported import TRAINING_JOB

KIND = "TrainingJob"
MAX_NAME, MAX_REPLICAS, MAX_PROCESSES = 40, 10_000, 128
A_YEAR = 31_536_000

Seconds = Annotated[Int, Field(ge=0, le=A_YEAR)]


class _AutoOrCount:
    """`auto` or a whole number of at least 1."""

    rule = Rule(
        cel=f"type(self) == string ? self == 'auto' : self >= 1 && self <= {MAX_PROCESSES}",
        holds=lambda value: value == "auto" if isinstance(value, str) else 1 <= value <= MAX_PROCESSES,
        message=f"write auto or a whole number from 1 to {MAX_PROCESSES}",
        found="self",
    )

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {
            "x-kubernetes-int-or-string": True,
            "maxLength": 16,
            "x-kubernetes-validations": [self.rule.schema()],
        }

    def _read(self, value: Any) -> int | str:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise PydanticCustomError("int_or_string", "wanted auto or a whole number")
        complaint = self.rule.complaint(value)
        if complaint is not None:
            raise PydanticCustomError("value", "{text}", {"text": complaint})
        return value


class Elastic(Model):
    """Between which numbers of workers the job may run. Not supported by this version yet."""

    rules = (
        Rule(
            cel="self.minReplicas <= self.maxReplicas",
            holds=lambda elastic: elastic.min_replicas <= elastic.max_replicas,
            message="spec.elastic.minReplicas may not be above spec.elastic.maxReplicas",
        ),
    )

    min_replicas: Annotated[Int, Field(ge=1, le=MAX_REPLICAS)]
    """The job goes on with as few workers as this, and waits below."""
    max_replicas: Annotated[Int, Field(ge=1, le=MAX_REPLICAS)]
    """The job takes up to so many workers when there is room."""


class Recipe(Model):
    """A Muster recipe: a Python class that names model, data, loss and metrics; the runtime does all the rest.

    The rest: sharding the data, distributed training, evaluation, checkpoints, resuming, progress, the trained model.
    """

    name: Annotated[
        str,
        StringConstraints(min_length=1, max_length=253),
        matches(
            r"^[A-Za-z_][0-9A-Za-z_]*(\.[A-Za-z_][0-9A-Za-z_]*)*:[A-Za-z_][0-9A-Za-z_]*$",
            "write module:Class, like muster_worker.recipes.digits:Digits",
        ),
    ]
    """Where the class is, as `module:Class`, in the worker's image or in `source`.

    For example `muster_worker.recipes.digits:Digits`, which comes with the worker image.
    """
    config: dict[str, Any] = Field(default_factory=dict)
    """What the recipe can be told, for example `{epochs: 20, batchSize: 64}`. Each recipe says what it knows."""


class Script(Model):
    """Any program that torchrun can start, unchanged."""

    command: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=16_384)], ...],
        Field(min_length=1, max_length=256),
        ATOMIC,
    ]
    """The program and its arguments, for example `[train.py, --epochs, "20"]`, started in every process of every worker.

    A first word that ends in .py is started by Python; it is looked for in the working directory, then in `source`.
    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT and the like are set as torchrun sets them. A script that
    appends JSON lines such as `{"step": 10, "totalSteps": 100, "loss": 0.3}` to the file MUSTER_REPORT gets its
    progress shown; one that saves checkpoints below MUSTER_STORAGE finds them there after a restart.
    """


class Source(Model):
    """The user's own Python code, mounted read-only into every worker and put first on PYTHONPATH."""

    config_map: ObjectName
    """The ConfigMap, in the same namespace, whose keys are file names such as train.py."""


class Mesh(Model):
    """How the processes are laid out for combined kinds of parallelism; the product is the number of processes."""

    data: Annotated[Int, Field(ge=1, le=MAX_REPLICAS)] = 1
    """Ways in which the data are split."""
    tensor: Annotated[Int, Field(ge=1, le=MAX_REPLICAS)] = 1
    """Ways in which each layer is split."""
    pipeline: Annotated[Int, Field(ge=1, le=MAX_REPLICAS)] = 1
    """Ways in which the sequence of layers is split."""


class Strategy(Model):
    """How data, model and gradients are distributed over the processes. For recipes."""

    type: Literal["ddp", "fsdp", "tensor", "pipeline", "parameterServer"] = "ddp"
    """ddp: every process has the whole model and its own shard of the data; gradients are averaged by all-reduce.

    fsdp shards the model, tensor and pipeline split it, parameterServer averages gradients on servers; of these this
    version of Muster supports ddp only.
    """
    parameter_servers: Annotated[Int, Field(ge=1, le=1000)] | None = None
    """How many pods hold the parameters, with type parameterServer. Not supported by this version yet."""
    mesh: Mesh | None = None
    """For combinations of kinds of parallelism. Not supported by this version yet."""


class LearningRate(Model):
    """The learning rate and how it follows the training."""

    initial: Decimal | None = None
    """The learning rate at the start, in quotes, for example "0.1". Absent: the recipe's own."""
    schedule: Literal["constant", "plateau"] = "plateau"
    """constant: stays as it is. plateau: multiplied by `factor` when `metric` has not improved for `patience` evaluations.

    All processes change it in the same step, and a restarted job goes on with the rate it had.
    """
    metric: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "validationLoss"
    """plateau: the metric that is watched, one of those that the recipe evaluates."""
    factor: Decimal = "0.5"
    """plateau: by what the learning rate is multiplied, in quotes, between "0" and "1"."""
    patience: Annotated[Int, Field(ge=0, le=1_000_000)] = 3
    """plateau: how many evaluations in a row may be without improvement before the learning rate falls."""


class Optimisation(Model):
    """How the parameters are updated. For recipes."""

    learning_rate: LearningRate | None = None
    """The learning rate. Absent: the recipe's own, constant."""
    gradient_accumulation: Annotated[Int, Field(ge=1, le=100_000)] = 1
    """Over how many batches gradients are summed before the parameters are updated."""


class Checkpoint(Model):
    """How often the state of the training is saved, so that a restart loses little. For recipes.

    Checkpoints go to `storage`, are complete or not there at all, and are checked before they are used. Whatever is
    written here, one is saved when a pod is asked to end.
    """

    every_steps: Annotated[Int, Field(ge=1, le=1_000_000_000)] | None = None
    """Save after so many steps. Absent: by time alone. With `everySeconds`: whichever comes first."""
    every_seconds: Annotated[Int, Field(ge=1, le=A_YEAR)] = 60
    """Save after so many seconds."""
    keep: Annotated[Int, Field(ge=1, le=1000)] = 3
    """How many checkpoints are kept; older ones are deleted."""
    asynchronous: Bool = True
    """Write while the training goes on, from a copy in memory; false: the training waits for the disk."""


class InitialModel(Model):
    """A trained model to start from. Not supported by this version yet."""

    from_training_job: ObjectName
    """The TrainingJob, in the same namespace, whose model is taken."""


class FailurePolicy(Model):
    """What happens when something fails.

    A process that ends badly is started again inside its pod, together with its peers, from the newest checkpoint. A
    pod that is lost, with or without its node, is replaced by one that takes the same rank; the other pods stay. Each
    of these counts as one restart, told in `status.restarts` with its cause and what it cost.
    """

    max_restarts: Annotated[Int, Field(ge=0, le=10_000)] = 6
    """How many restarts the job may have over its whole life. One more failure ends it as Failed. 0: none is retried."""
    permanent_exit_codes: Annotated[
        tuple[Annotated[Int, Field(ge=1, le=255)], ...], Field(max_length=64), ListType(unique=True)
    ] = ()
    """Exit codes, from 1 to 255, that end the job at once because another try would fail alike, for example [2].

    Every other failure is retried. A process killed by signal n has exit code 128 + n.
    """
    hang_timeout_seconds: Annotated[Int, Field(ge=1, le=A_YEAR)] | None = None
    """Restart when no progress was reported for so many seconds. Not supported by this version yet."""
    node_lost_seconds: Seconds = 0
    """How many seconds after its node became unreachable a pod is given up and replaced. 0: at once.

    A node is called unreachable by Kubernetes itself, by default after 40 seconds of silence.
    """


class Scheduling(Model):
    """When and where the workers are placed."""

    gang: Literal["auto", "none", "coscheduling", "volcano"] = "auto"
    """auto: no pod is made before the cluster has room for all of them. none: pods start as they are placed.

    coscheduling and volcano, which leave this to another scheduler, are not supported by this version yet.
    """
    queue_name: ObjectName | None = None
    """The LocalQueue of Kueue that admits the job. Not supported by this version yet."""
    priority_class_name: ObjectName | None = None
    """The PriorityClass of the workers. Absent: the cluster's default."""
    topology_key: Annotated[str, StringConstraints(max_length=317)] | None = None
    """A node label, for example topology.kubernetes.io/zone: all workers in one such domain. Not supported yet."""


def _asks_for_gpus(spec: TrainingJobSpec) -> bool:
    return any(parse_quantity(amount) > 0 for amount in _gpu_limits(spec))


def _gpu_limits(spec: TrainingJobSpec) -> list[str]:
    from muster.api.common import is_gpu

    return [amount for name, amount in spec.resources.limits.items() if is_gpu(name)]


class TrainingJobSpec(Model):
    """What is wanted. Only failurePolicy can be changed once the job exists."""

    replicas: Annotated[Int, Field(ge=1, le=MAX_REPLICAS)] = 1
    """How many worker pods train together. They start together or not at all."""
    elastic: Elastic | None = None
    """Let the number of workers change while the job runs. Absent: fixed. Not supported by this version yet."""
    processes_per_worker: Annotated[int | str, _AutoOrCount()] = "auto"
    """How many processes (ranks) each worker runs: `auto` or a number. auto: one a GPU of the pod, at least one."""
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """How processes exchange gradients: nccl between GPUs, gloo anywhere. auto: nccl where pods ask for GPUs, else gloo."""
    recipe: Recipe | None = None
    """What runs: a Muster recipe. Write this or `script`."""
    script: Script | None = None
    """What runs: any torchrun program. Write this or `recipe`."""
    source: Source | None = None
    """Where the code is when it is not in the image. Absent: in the image."""
    strategy: Strategy | None = None
    """How recipes distribute data, model and gradients. Absent: ddp."""
    optimisation: Optimisation | None = None
    """How recipes update the parameters. Absent: as the recipe does it by itself."""
    compression: Compression | None = None
    """Steps that make the trained model smaller, in order. Not supported by this version yet."""
    resources: Resources = Resources()
    template: RawPodTemplate = Field(default_factory=dict)
    storage: Storage | None = None
    checkpoint: Checkpoint = Checkpoint()
    initial_model: InitialModel | None = None
    """The model to start from. Not supported by this version yet."""
    failure_policy: FailurePolicy = FailurePolicy()
    success_policy: Literal["AllWorkers", "Rank0"] | None = None
    """When the job has succeeded. Absent or AllWorkers: when all workers have. Rank0 is not supported yet."""
    scheduling: Scheduling = Scheduling()
    suspend: Bool | None = None
    """true: stop, keeping checkpoints, until it is false again. Not supported by this version yet."""
    active_deadline_seconds: Annotated[Int, Field(ge=1, le=A_YEAR)] | None = None
    """The job fails when it runs longer than so many seconds. Not supported by this version yet."""
    ttl_seconds_after_finished: Seconds | None = None
    """The job is deleted so many seconds after its end. Not supported by this version yet."""
    pod_cleanup: Literal["All", "Running", "None"] | None = None
    """Which pods are deleted when the job ends. Not supported by this version yet."""
    managed_by: Annotated[
        str,
        StringConstraints(min_length=1, max_length=63),
        matches(
            r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-0-9A-Za-z._~!$&'()*+,;=:@%]+$",
            f"write a domain and a path, like {OPERATOR}",
        ),
    ] = OPERATOR
    """Who looks after the job. With anything but muster.dev/operator Muster leaves it alone, for example for MultiKueue."""

    rules = (
        Rule(
            cel="has(self.recipe) || has(self.script)",
            holds=lambda spec: spec.recipe is not None or spec.script is not None,
            message="spec: nothing to run: write spec.recipe (a Muster recipe) or spec.script (a torchrun program)",
            reason="FieldValueRequired",
        ),
        Rule(
            cel="!has(self.recipe) || !has(self.script)",
            holds=lambda spec: spec.recipe is None or spec.script is None,
            message="spec: recipe and script exclude each other: leave one of them out",
        ),
        Rule(
            cel="!has(self.script) || !has(self.strategy)",
            holds=lambda spec: spec.script is None or spec.strategy is None,
            message="spec.strategy is for recipes, a script distributes its model itself: leave it out",
            at=".strategy",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="!has(self.script) || !has(self.optimisation)",
            holds=lambda spec: spec.script is None or spec.optimisation is None,
            message="spec.optimisation is for recipes, a script sets its learning rate itself: leave it out",
            at=".optimisation",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel=(
                "self.backend != 'nccl' || has(self.resources) && has(self.resources.limits) &&"
                f" self.resources.limits.exists(k, {IS_GPU}"
                " && quantity(string(self.resources.limits[k])).sign() > 0)"
            ),
            holds=lambda spec: spec.backend != "nccl" or _asks_for_gpus(spec),
            message=(
                "spec.backend: nccl needs GPUs and spec.resources.limits asks for none:"
                " write gloo, or add nvidia.com/gpu to the limits"
            ),
            at=".backend",
        ),
        *(refusal.rule() for refusal in TRAINING_JOB),
    )


TrainingJobSpec.rules = (
    *TrainingJobSpec.rules,
    *frozen_fields(TrainingJobSpec, changeable=("failurePolicy",)),
)


class TrainingJob(Model):
    """A distributed training: some worker pods that train one model together, through failures, to its end.

    It needs `spec.recipe` or `spec.script`; everything else has a default or may be left out.
    """

    rules = (
        Rule(
            cel=(
                f"size(self.metadata.name) <= {MAX_NAME} &&"
                " self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
            ),
            holds=lambda job: (
                len(job.metadata.name) <= MAX_NAME
                and re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", job.metadata.name) is not None
            ),
            message=(
                "metadata.name: the workers' host names are made from it: write at most"
                f" {MAX_NAME} lower-case letters, digits and -, beginning with a letter"
            ),
            found="self.metadata.name",
        ),
    )

    api_version: Literal["muster.dev/v1alpha1"] = API_VERSION
    kind: Literal["TrainingJob"] = KIND
    metadata: Metadata
    spec: TrainingJobSpec
    status: TrainingJobStatus = TrainingJobStatus()
