"""The status of a TrainingJob: everything that Muster must know after a crash, and all that a person wants to see."""

from typing import Annotated, Literal

from pydantic import Field

from muster.api.base import Int, Reported
from muster.api.common import Condition
from muster.api.compression import CompressionResult
from muster.api.lists import ATOMIC, ListType
from muster.api.names import Timestamp

Phase = Literal["Pending", "Queued", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed"]


class Restart(Reported):
    """One restart: what failed, and what it cost."""

    attempt: Int
    """The attempt that ended."""
    cause: str
    """What happened, in one word.

    ExitCode, Signal, Hang: to a process. Silent: a worker stopped answering the others. PodFailed, PodDeleted,
    OutOfMemory, Evicted, NodeLost and the like: to a pod.
    """
    message: str | None = None
    """What happened, in a sentence."""
    rank: Int | None = None
    """The worker that failed first, by its rank."""
    pod: str | None = None
    """That worker's pod."""
    node: str | None = None
    """The node it was on."""
    exit_code: Int | None = None
    """The exit code, 128 + n for signal n. Absent where nothing ended by itself."""
    at: Timestamp | None = None
    """When it was noticed."""
    recovery_seconds: str | None = None
    """Seconds from the failure to the next training step. Absent until then."""
    step: Int | None = None
    """The last step known before the failure."""
    steps_lost: Int | None = None
    """Steps that had to be done again because they came after the newest checkpoint."""


class Entrusted(Reported):
    """To which half of a torn elastic group it was left to go on."""

    round: str
    """Of the group that both were of, as its agents call it."""
    pod: str
    """The pod whose agent coordinates the half."""


class Progress(Reported):
    """How far the training is, as the workers last said."""

    epoch: Int | None = None
    """The current pass over the data."""
    total_epochs: Int | None = None
    """How many there were to be. Where spec.optimisation.earlyStopping ends the training, fewer are done."""
    step: Int | None = None
    """The last step done: updates of the parameters since the job began."""
    total_steps: Int | None = None
    """How many steps there will be."""
    percent: Int | None = None
    """step of totalSteps, in per cent."""
    seconds_left: Int | None = None
    """Seconds to the end, at the pace since the last start."""
    steps: str | None = None
    """`812/2000`, for the column Step: columns cannot be put together from two fields."""
    time_left: str | None = None
    """`1m35s`, for the column Left: columns have no format for a length of time to come."""
    reported_at: Timestamp | None = None
    """When the workers said so."""


class Straggler(Reported):
    """A worker that is slower than its peers, who wait for it in every step."""

    pod: str
    """The worker's pod."""
    slowdown: str
    """How many times as long it takes as the median of all."""


class PodPreflight(Reported):
    """What a worker's machine can do, as it was before the first step."""

    pod: str
    """The worker's pod."""
    node: str | None = None
    """Where it is."""
    gigaflops: str | None = None
    """Of products of matrices, by its first device."""
    megabytes_per_second: str | None = None
    """To and from the better of its two neighbours, both directions together."""
    latency_milliseconds: str | None = None
    """There and back, by the better of the two."""


class SavedCheckpoint(Reported):
    """The newest checkpoint that is complete."""

    step: Int | None = None
    """The step that it was taken after."""
    saved_at: Timestamp | None = None
    """When it was complete."""
    bytes: Int | None = None
    """How large it is."""
    path: str | None = None
    """Where it is, below spec.storage.path."""


class TrainedModel(Reported):
    """The result, once there is one: a directory with model.json, safetensors weights and an exported program."""

    path: str | None = None
    """Where it is, below spec.storage.path."""
    step: Int | None = None
    """The step that it is from: the last, or with spec.checkpoint.bestBy the best."""
    bytes: Int | None = None
    """How large it is."""
    sha256: str | None = None
    """The SHA-256 of its model.json, which has those of all other files."""
    compression: Annotated[tuple[CompressionResult, ...], ATOMIC] = ()
    """What each step of spec.compression did."""


class UsedModel(Reported):
    """The model that the job started from, and starts from again where it has no checkpoint."""

    from_training_job: str
    """Whose it is."""
    claim_name: str
    """The claim that it is read from."""
    path: str
    """Where it is on that volume."""
    sha256: str
    """The checksum that it must have."""


class TrainingJobStatus(Reported):
    """What is. Written by Muster alone."""

    observed_generation: Int | None = None
    """The metadata.generation that this status is about."""
    phase: Phase | None = None
    """Where the job is in its life.

    Pending: not looked at, or refused. Queued: waits for room, or for something that it names. Starting: pods are
    there, no step was made. Running: trains. Restarting: something failed and is being recovered from. Suspended:
    stopped on request, or (condition Suspended is False) about to. Succeeded, Failed: over.
    """
    reason: str | None = None
    """Why the job is in this phase, in one CamelCase word: the column Reason."""
    message: str | None = None
    """Why the job is in this phase, in a sentence."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), ListType(keys=("type",))] = ()
    """Admitted, Running, Suspended, Complete and Failed, each with a reason and a sentence."""
    topology_domain: str | None = None
    """The value of spec.scheduling.topologyKey that the workers were placed by."""
    initial_model: UsedModel | None = None
    wanted_replicas: Int | None = None
    """spec.replicas as it was when pods were made for it."""
    replicas: Int | None = None
    """Worker pods that exist and have not ended. `kubectl scale` and autoscalers read it."""
    ready_replicas: Int | None = None
    """Worker pods that run and whose agent answers."""
    workers: str | None = None
    """`3/3`, ready or done of wanted, for the column Workers: columns cannot be put together from two fields."""
    selector: str | None = None
    """A label selector for the job's pods. `kubectl scale` and autoscalers read it."""
    attempt: Int | None = None
    """The attempt under way, from 1; each restart begins another, and so does each readmission."""
    planned_attempts: Int | None = None
    """How many of the attempts were begun on purpose, which is no restart.

    When workers were added, after a suspension, or after all pods were taken back because some found no place.
    """
    entrusted: Entrusted | None = None
    """Of an elastic group that was torn into halves: which one was told to go on. The other waits for it."""
    restart_count: Int | None = None
    """All restarts so far, counted against spec.failurePolicy.maxRestarts: `restarts` has only the last ones."""
    restarts: Annotated[tuple[Restart, ...], ATOMIC] = ()
    """The last ten restarts, the oldest first."""
    progress: Progress | None = None
    metrics: dict[str, str] = Field(default_factory=dict)
    """The newest measurements, as strings: loss, samplesPerSecond, learningRate, whatever the recipe evaluates."""
    metric: str | None = None
    """`validationAccuracy 0.981`, the measurement that tells most, for the column Metric: each job has others."""
    stragglers: Annotated[tuple[Straggler, ...], ATOMIC] = ()
    """Workers that slow the others down."""
    preflight: Annotated[tuple[PodPreflight, ...], ATOMIC] = ()
    """What was measured before the first step; of many workers, those that are worst."""
    checkpoint: SavedCheckpoint | None = None
    model: TrainedModel | None = None
    start_time: Timestamp | None = None
    """When the pods were made; after a suspension, when they were made again."""
    completion_time: Timestamp | None = None
    """When the job was over."""
