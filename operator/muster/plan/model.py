"""What a planner is given and what it answers: the whole language between `plan/` and `control/`.

A planner is a pure function `plan(observed, settings, now) -> Plan`. `control/` fills `Observed` from its
store, carries the `Plan` out and knows nothing of what it means.

Raw Kubernetes objects are the dicts that the API server sent (`Manifest`): typed models of them cost twenty
times the JSON parsing. Times are seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Manifest: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator's own flags say, the same for every resource."""

    worker_image: str
    worker_image_pull_policy: str = "IfNotPresent"
    """Of all images that the operator chooses."""
    torchserve_image: str = ""
    tensorflow_serving_image: str = ""
    model_cache: str = ""
    """The directory of each node where pods keep models that they fetched; empty: they keep none."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The last answer of one pod's agent.

    `state` is the JSON of `/state`; None while the agent has never answered. `received_at` is when it came.
    `silent_since` is when the agent stopped answering; None while it answers.
    """

    state: Manifest | None
    received_at: float
    silent_since: float | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that must be there before pods are made, in the resource's namespace where it has one.

    `field` is where the spec names it. `remedy` is what to do where it is missing. `refused` is what the API server
    said where it did not tell whether it is there.
    """

    kind: Literal[
        "ConfigMap",
        "CustomResourceDefinition",
        "LocalQueue",
        "PersistentVolumeClaim",
        "PriorityClass",
        "ResourceClaim",
        "ResourceClaimTemplate",
        "StorageClass",
    ]
    name: str
    field: str
    remedy: str = "create it"
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether the pods may be made, and the sentence that says why or why not.

    `domain` is the value of the demand's topology key that its pods are to be placed by, `priority` the value of the
    PriorityClass that it names. `pods`: for how many of them there is room, where room was counted.
    """

    granted: bool
    reason: str
    message: str
    domain: str | None = None
    priority: int | None = None
    pods: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """What a resource asks for before its pods are made, and its place in line.

    `name` is `namespace/name` for others to read. `pods` are the specs of all its pods, of which as many as `least`
    says must find a place together, on nodes with one value of the label `topology_key` where it is given. `since`:
    when it began to wait. `priority_class`: None for the cluster's default. `uncounted`: what is answered without
    counting room, as soon as all `references` are there; None: room is counted.
    """

    name: str
    pods: tuple[Manifest, ...]
    least: int
    since: float
    priority_class: str | None = None
    references: tuple[Reference, ...] = ()
    topology_key: str | None = None
    uncounted: Admission | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the API server said when it would not make something: for the `times`-th time in a row, at `at`.

    `besides`: it was nothing that pods wait for.
    """

    message: str
    at: float
    times: int = 1
    besides: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """One resource and everything that exists for it, at one moment.

    `pods`, `services`, `budgets`, `autoscalers`, `revisions` and `routes` hold what bears the resource's UID in its
    owner references. `nodes` holds every node known, by name. `reports` holds the agents' answers by pod UID. `named`
    holds the other resources under control that this one names, by kind and name. `admission` is the answer to the
    demand of the last plan; None while there is none. `refusal` is there when the last pods were refused. `workloads`
    and `flavors` are Kueue's, where a plan has needed them: the Workloads that bear the resource's UID, and every
    ResourceFlavor by name. Workloads or routes None: the cluster has no such kind, or it is not watched yet. `heard_at`
    is when any agent at all last answered; `unheard`: from when until when none did, the last time that it was so.
    `routed`: the addresses that the resource's Service leads to; None: not known.
    """

    resource: Manifest
    pods: tuple[Manifest, ...] = ()
    services: tuple[Manifest, ...] = ()
    budgets: tuple[Manifest, ...] = ()
    autoscalers: tuple[Manifest, ...] = ()
    revisions: tuple[Manifest, ...] = ()
    nodes: Mapping[str, Manifest] = field(default_factory=dict)
    reports: Mapping[str, WorkerReport] = field(default_factory=dict)
    named: Mapping[tuple[str, str], Manifest] = field(default_factory=dict)
    admission: Admission | None = None
    refusal: Refusal | None = None
    workloads: tuple[Manifest, ...] | None = None
    routes: tuple[Manifest, ...] | None = None
    flavors: Mapping[str, Manifest] = field(default_factory=dict)
    heard_at: float = 0.0
    unheard: tuple[float, float] = (0.0, 0.0)
    routed: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class StatusPart:
    """What one owner says in the status of an object that is not ours: what it said before and leaves out here goes.

    `metadata.uid` and, where given, `metadata.resourceVersion` are preconditions.
    """

    manifest: Manifest
    owner: str


@dataclass(frozen=True, slots=True)
class Delete:
    """One object to delete. `uid` is a precondition: another object of that name is never hit.

    `resource_version`, where given, is one as well: nothing may have happened to the object since it was seen.
    `grace_seconds=0` removes the object by force, without waiting for its node: only right for a pod whose
    node is unreachable. None leaves the object's own grace period.
    """

    kind: Literal[
        "ControllerRevision", "HTTPRoute", "HorizontalPodAutoscaler", "Pod", "Service", "TrainingJob", "Workload"
    ]
    name: str
    uid: str
    grace_seconds: int | None = None
    resource_version: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the resource, for a person to read in `kubectl describe`."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Target:
    """One pod whose agent is to be asked for its state until a later plan no longer names it.

    `eager`: its answer is waited for, so it is asked about once a second however many others there are. `steady`: as
    often when it says the same again and again. With the question it hears which pods of its group are `gone`, and the
    `word` that it asks for, by which half of a torn group goes on.
    """

    pod_uid: str
    address: str
    port: int
    eager: bool = False
    steady: bool = False
    word: str | None = None
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order: deletes, applies, creates, parts, besides, events, and the status last.

    - `creates`: pods, by a plain POST; that one is there already counts as done.
    - `applies`: complete objects, by server-side apply; only those that differ from what is observed.
    - `parts`: of the status of objects that are others' as well.
    - `besides`: as `applies`, but nothing else waits for these.
    - `status`: the complete new status; None when what is recorded is still true (no write).
    - `events`: written only after everything before them succeeded.
    - `scrape`: the pods to ask from now on.
    - `look_again`: seconds after which to plan again though nothing may have happened; None: no need.
    - `demand`: what to answer by `Observed.admission` in the next call; as long as it is there, it stands in line.
    - `needs`: kinds of others that are to be watched, as soon as the cluster has them.
    """

    creates: tuple[Manifest, ...] = ()
    applies: tuple[Manifest, ...] = ()
    deletes: tuple[Delete, ...] = ()
    parts: tuple[StatusPart, ...] = ()
    besides: tuple[Manifest, ...] = ()
    status: Manifest | None = None
    events: tuple[Event, ...] = ()
    scrape: tuple[Target, ...] = ()
    look_again: float | None = None
    demand: Demand | None = None
    needs: tuple[str, ...] = ()
