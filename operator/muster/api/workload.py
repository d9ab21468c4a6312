"""What a TrainingJob runs and how the training is done: the blocks that become the worker's environment."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from muster.api.base import Bool, Int, Model
from muster.api.lists import ATOMIC
from muster.api.names import Fraction, ObjectName, PositiveDecimal, matches
from muster.api.rules import Rule


class Recipe(Model):
    """A Muster recipe: a Python class that names model, data, loss and metrics; the runtime does all the rest.

    The rest: sharding the data, distributed training, evaluation, checkpoints, resuming, progress, the trained
    model.
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
    """Any program that torchrun can start, unchanged.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT and the like are set as torchrun sets them. A script that
    appends JSON lines such as `{"step": 10, "totalSteps": 100, "loss": 0.3}` to the file named by MUSTER_REPORT
    gets its progress shown; one that saves its checkpoints in the directory MUSTER_STORAGE finds them there after
    a restart.
    """

    command: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=16_384)], ...],
        Field(min_length=1, max_length=256),
        ATOMIC,
    ]
    """The program and its arguments, for example `[train.py, --epochs, "20"]`, started in every process.

    A first word that ends in .py is started by Python. It is looked for in the working directory, then in `source`.
    """


class Source(Model):
    """The user's own Python code, mounted read-only into every worker and put first on PYTHONPATH."""

    config_map: ObjectName
    """The ConfigMap, in the same namespace, whose keys are file names such as train.py."""


class Mesh(Model):
    """How the processes are laid out where several kinds of parallelism are combined. The product is their number."""

    data: Annotated[Int, Field(ge=1, le=10_000)] | None = None
    """Shares of each batch. Absent: as many as there are processes for."""
    tensor: Annotated[Int, Field(ge=1, le=10_000)] | None = None
    """Ways in which each layer is split. Absent: 1, or with type tensor all processes."""
    pipeline: Annotated[Int, Field(ge=1, le=10_000)] | None = None
    """Ways in which the sequence of layers is split. Absent: 1, or with type pipeline all processes."""


def _whole_layers(strategy: "Strategy") -> bool:
    return strategy.type != "ddp" or strategy.mesh is None or (strategy.mesh.tensor or 1) == 1


class Strategy(Model):
    """How data, model and gradients are distributed over the processes of a recipe. Absent: ddp.

    Whichever it is, the same is learned, and a checkpoint that one has saved another goes on from.
    """

    rules = (
        Rule(
            cel="self.type != 'ddp' || !has(self.mesh) || !has(self.mesh.tensor) || self.mesh.tensor == 1",
            holds=_whole_layers,
            message="with ddp every process has whole layers: write type fsdp or tensor, or leave it out",
            at=".mesh.tensor",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="self.type == 'pipeline' || !has(self.mesh) || !has(self.mesh.pipeline) || self.mesh.pipeline == 1",
            holds=lambda strategy: (
                strategy.type == "pipeline" or strategy.mesh is None or (strategy.mesh.pipeline or 1) == 1
            ),
            message="only type pipeline splits the sequence of layers: write it, or leave this out",
            at=".mesh.pipeline",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel=(
                "self.type == 'parameterServer' || !has(self.parameterServers) && !has(self.staleness)"
                " && !has(self.gradientCompression)"
            ),
            holds=lambda strategy: (
                strategy.type == "parameterServer"
                or strategy.parameter_servers is strategy.staleness is strategy.gradient_compression is None
            ),
            message=(
                "parameterServers, staleness and gradientCompression are for type parameterServer: write it, or leave"
                " them out"
            ),
            at=".type",
        ),
        Rule(
            cel="self.type != 'parameterServer' || !has(self.mesh)",
            holds=lambda strategy: strategy.type != "parameterServer" or strategy.mesh is None,
            message="with parameterServer each worker has the whole model: leave it out",
            at=".mesh",
            reason="FieldValueForbidden",
        ),
    )

    type: Literal["ddp", "fsdp", "tensor", "pipeline", "parameterServer"] = "ddp"
    """ddp: every process has the whole model and its own share of the data; gradients are averaged by all-reduce.

    fsdp: the same, but parameters, gradients and the optimizer's state are divided among the processes, and a layer is
    whole only while it computes: for a model that one GPU cannot hold. tensor: each layer is divided among processes
    that compute the same samples together, as the recipe's tensor_plan says. pipeline: each process has some of the
    layers, the recipe's pipeline_layers, which each batch passes in pieces. With several workers, these need a
    persistentVolumeClaim.
    parameterServer: pods beside the workers hold the parameters and update them by the gradients that workers send.
    A lost worker stops nobody. Servers get no GPU; more than one of them needs a persistentVolumeClaim.
    """
    parameter_servers: Annotated[Int, Field(ge=1, le=1000)] | None = None
    """With parameterServer: how many pods, beside spec.replicas workers, hold the parameters. Absent: 1."""
    staleness: Annotated[Int, Field(ge=0, le=1000)] | None = None
    """With parameterServer: how many steps a worker may be ahead of the slowest one. Absent or 0: all go together.

    With 0 the same is learned as by the other types. With more, a slow worker holds up the others less, and gradients
    are of parameters that are up to so many steps old: a lower learning rate may be needed.
    """
    gradient_compression: Literal["none", "int8"] | None = None
    """With parameterServer: int8 sends gradients in a quarter of the bytes, what is rounded off later. Absent: none."""
    mesh: Mesh | None = None
    """For combinations of kinds of parallelism, for example `{data: 2, tensor: 4}`.

    data goes with every type but parameterServer, tensor with fsdp, tensor and pipeline, pipeline with pipeline.
    """


class LearningRate(Model):
    """The learning rate and how it follows the training. Absent: the recipe's own, constant.

    For example `{initial: "0.1", schedule: plateau, metric: validationLoss, factor: "0.5", patience: 3}`.
    """

    initial: PositiveDecimal | None = None
    """The learning rate at the start, in quotes, for example "0.1". Absent: the recipe's own."""
    schedule: Literal["constant", "plateau", "cosine"] = "constant"
    """constant: it stays. plateau: it is multiplied by `factor` whenever `metric` stops improving.

    cosine: it falls along half a cosine to zero, or to `minimum`, at the last step. All processes change it in the same
    step, and a job that is restarted or gets another number of workers goes on with the rate it had.
    """
    warm_up_steps: Annotated[Int, Field(ge=0, le=1_000_000_000)] = 0
    """In so many first steps the learning rate rises evenly from zero; the schedule begins then."""
    minimum: PositiveDecimal | None = None
    """The learning rate never falls below this, in quotes, for example "0.0001". Absent: it may fall to zero."""
    metric: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "validationLoss"
    """With plateau: the metric that is watched, one of those that the recipe evaluates."""
    factor: Fraction = "0.5"
    """With plateau: what the learning rate is multiplied by, in quotes, above "0" and below "1"."""
    patience: Annotated[Int, Field(ge=0, le=1_000_000)] = 3
    """With plateau: how many evaluations in a row may bring no improvement before the learning rate falls."""


class EarlyStopping(Model):
    """Ends the training when nothing gets better any more. Judged after each epoch's evaluation."""

    metric: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "validationLoss"
    """The metric that is watched, one of those that the recipe evaluates."""
    patience: Annotated[Int, Field(ge=1, le=1_000_000)] = 3
    """How many evaluations in a row may bring no improvement."""
    minimum_change: PositiveDecimal | None = None
    """What is no improvement yet, in quotes, for example "0.001". Absent: the smallest change is one."""


class Optimisation(Model):
    """How the parameters of a recipe are updated. Absent: as the recipe does it by itself."""

    learning_rate: LearningRate | None = None
    gradient_accumulation: Annotated[Int, Field(ge=1, le=100_000)] = 1
    """Over how many batches gradients are summed before the parameters are updated."""
    max_gradient_norm: PositiveDecimal | None = None
    """Gradients that are longer, as one vector of the whole model, are shortened to this. In quotes, for example "1".

    Absent: they are taken as they are.
    """
    early_stopping: EarlyStopping | None = None


class Checkpoint(Model):
    """How often a recipe's training is saved, so that a restart loses little.

    Checkpoints go to `storage`, are complete or not there at all, and are checked before they are used. Whatever is
    written here, one is saved at the end and when a pod is asked to end.
    """

    every_steps: Annotated[Int, Field(ge=1, le=1_000_000_000)] | None = None
    """Save after so many steps. Absent: by time alone. With `everySeconds`: whichever comes first."""
    every_seconds: Annotated[Int, Field(ge=0, le=31_536_000)] = 60
    """Save after so many seconds. 0: by steps alone."""
    keep: Annotated[Int, Field(ge=1, le=1000)] = 3
    """How many checkpoints are kept; older ones are deleted."""
    best_by: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """A metric that the recipe evaluates, for example validationLoss. Absent: the last model is published.

    Then a checkpoint is made whenever it is better than ever, the best one is kept beside the newest ones, and its
    model is published.
    """
    asynchronous: Bool = True
    """Write while the training goes on, from a copy in memory, which keeps its room. false: the training waits for the
    disk.

    A failure while one is being written loses, beside the interval, the steps made since that write began.
    """


class InitialModel(Model):
    """A trained model to start from: the recipe's parameters are loaded from it before the first step.

    The job waits until there is one. It is read from the volume that the other job named in
    `storage.persistentVolumeClaim`. A script finds it in the directory `$MUSTER_INITIAL_MODEL`.
    """

    from_training_job: ObjectName
    """The TrainingJob, in the same namespace, whose model is taken."""


class Distillation(Model):
    """Has the recipe's model, the student, learn from what the model of `initialModel`, the teacher, answers.

    The student begins with parameters of its own, and is mostly a smaller one. Both give logits of the same shape. What
    is learned: alpha times the divergence from the teacher's answers, both softened by the temperature, and 1 - alpha
    times the recipe's loss.
    """

    temperature: PositiveDecimal = "2"
    """How far answers are softened, in quotes, for example "2"; "1": not at all.

    A high one makes gradients larger, up to as many times, where the teacher is sure of its answers: with "4" or more,
    choose a lower learning rate.
    """
    alpha: Annotated[
        str,
        StringConstraints(min_length=1, max_length=32),
        matches(
            r"^(0|1|0?\.[0-9]+|[01]\.0*)$",
            'write a decimal number from 0 to 1 in quotes, like "0.7"',
        ),
    ] = "0.7"
    """The part of the teacher's answers, in quotes, from "0" to "1"; the rest is that of the samples' targets."""
