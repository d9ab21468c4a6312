"""The status of a ModelDeployment: what Muster must know after a crash, and what a person wants to see."""

from typing import Annotated, Literal

from pydantic import Field

from muster.api.base import Bool, Int, Reported
from muster.api.common import Condition
from muster.api.compression import CompressionResult
from muster.api.lists import ATOMIC, ListType
from muster.api.names import Timestamp

Phase = Literal[
    "Pending", "Compressing", "Starting", "Ready", "RollingOut", "Degraded", "RolledBack", "Suspended", "Failed"
]


class Revisions(Reported):
    """The versions of what shapes the pods, each kept in a ControllerRevision of that name."""

    current: str | None = None
    """The last that all groups had and answered with: what a rollback returns to."""
    target: str | None = None
    """What spec asks for."""
    failed: str | None = None
    """The one that was given up; it is not tried again before spec asks for another."""
    failure: str | None = None
    """Why, in a sentence."""


class Restarted(Reported):
    """The rolling restart that spec.rollout.restart asked for."""

    observed: str
    """The text that was acted on."""
    completed_at: Timestamp | None = None
    """When all groups had been restarted; absent until then."""


class Counted(Reported):
    """What one group had answered when it was last counted."""

    requests: Int
    """How many requests since its process began."""
    failed_requests: Int
    """How many of them failed by its fault (HTTP 500 and above)."""


class RolloutProgress(Reported):
    """The last rollout, from one revision to another."""

    started_at: Timestamp
    """When it was begun."""
    progressed_at: Timestamp | None = None
    """When a group last became ready, or it was begun or went on after a pause."""
    finished_at: Timestamp | None = None
    """When all groups had the revision and were ready; absent until then."""
    updated: Int | None = None
    """How many groups of the revision are ready."""
    step: str | None = None
    """`2/3 groups`."""
    canary_step: Int | None = None
    """Which of spec.canary.steps is under way, from 1; one more than there are when it is all groups' turn."""
    canary_step_since: Timestamp | None = None
    """When its groups answered; absent until then."""
    seconds: str | None = None
    """How long it took."""
    requests: Int | None = None
    """How many requests all groups answered from its beginning to its end, as far as they tell."""
    failed_requests: Int | None = None
    """How many of them failed by a group's fault (HTTP 500 and above)."""
    counted: dict[str, Counted] | None = None
    """By the name of a group's first pod, what of it is contained in these two; absent once it is over."""


class Route(Reported):
    """What the gateway of spec.canary.gateway was last known to do."""

    observed_generation: Int
    """The metadata.generation of the HTTPRoute that it has taken up."""
    weights: dict[str, Int]
    """The per cent of the requests that go to each revision; the others get none."""
    since: Timestamp
    """When that was noticed."""


class Failover(Reported):
    """One group that was lost, and what it cost."""

    group: Int
    """Its number."""
    cause: str
    """What happened, in one word: ProcessDied, OutOfMemory, PodDeleted, Evicted, NodeLost and the like."""
    message: str | None = None
    """What happened, in a sentence."""
    pod: str | None = None
    """The pod that was lost, or whose process died."""
    node: str | None = None
    """The node it was on."""
    restarted: Bool | None = None
    """true where a process died and was started again in its pod."""
    exit_code: Int | None = None
    """The process's exit code, 128 + n for signal n."""
    in_a_row: Int | None = None
    """How many of the group have ended soon after one another, this one among them.

    The more they are, the longer it takes until the next one is made: 2 seconds, 4, up to 2 minutes. Absent: one.
    """
    at: Timestamp
    """When it was noticed; where a process died, when it did."""
    replaced_seconds: str | None = None
    """Seconds from then until the group was ready again. Absent until it is."""


class ServedModel(Reported):
    """The model that the target revision serves."""

    from_training_job: str | None = None
    """Whose it is, where spec names a job."""
    claim_name: str | None = None
    """The claim that it is read from."""
    uri: str | None = None
    """Where it is fetched from by each pod, instead."""
    path: str | None = None
    """Where it is on that volume; absent: at its root."""
    sha256: str | None = None
    """The checksum that it must have; absent: any."""
    bytes: Int | None = None
    """How large it is, where it was compressed."""
    compression: Annotated[tuple[CompressionResult, ...], ATOMIC] = ()
    """What each step of spec.compression did."""


class ModelDeploymentStatus(Reported):
    """What is. Written by Muster alone."""

    observed_generation: Int | None = None
    """The metadata.generation that this status is about."""
    phase: Phase | None = None
    """Pending: waits for its model, or was refused. Compressing: makes it smaller. Starting: no group has answered yet.

    Ready: every group answers, with what spec asks for. RollingOut: groups are being replaced by others. Degraded: a
    group that should answer does not. RolledBack: spec was given up, its last good revision answers. Suspended: on
    request. Failed: spec was given up, and there is nothing to return to, or rollout.onFailure is Pause.
    """
    reason: str | None = None
    """Why, in one CamelCase word: the column Reason."""
    message: str | None = None
    """Why, in a sentence."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), ListType(keys=("type",))] = ()
    """Servable, UpToDate, Ready, Progressing and, with spec.canary.gateway, Routed: each with a reason and a sentence.

    Servable: at least one group answers now. UpToDate: every group has what spec asks for. Ready: both, and every group
    answers; Unknown while that is being brought about, False only when it has failed. Progressing: something changes.
    Routed: the gateway has taken the HTTPRoute, by which each revision gets its share of the requests.
    """
    url: str | None = None
    """Where the model answers, inside of the cluster."""
    attempt: Int | None = None
    """How many times a group was made; pods are named after it, so that no name is used twice."""
    made_replicas: Int | None = None
    """How many groups have been made: one that never was cannot have been lost."""
    replicas: Int | None = None
    """Groups that exist and are not leaving. `kubectl scale` and autoscalers read it."""
    ready_replicas: Int | None = None
    """Groups that answer."""
    updated_replicas: Int | None = None
    """Groups that answer with the target revision."""
    ready: str | None = None
    """`3/3`, for the column Ready: columns cannot be put together from two fields."""
    selector: str | None = None
    """A label selector for the pods. `kubectl scale` and autoscalers read it."""
    revision: Revisions | None = None
    restart: Restarted | None = None
    rollout: RolloutProgress | None = None
    route: Route | None = None
    failovers: Annotated[tuple[Failover, ...], ATOMIC] = ()
    """The last losses of groups, the oldest first: all that are not made good, and ten others."""
    metrics: dict[str, str] = Field(default_factory=dict)
    """What clients saw in the last half minute, as strings.

    requestsPerSecond and errorRate of all groups together; latencyP50Milliseconds and latencyP99Milliseconds of the
    slowest.
    """
    measured_at: Timestamp | None = None
    """When all of this was last written. How many groups answer may be older by two seconds, `metrics` by ten."""
    model: ServedModel | None = None
