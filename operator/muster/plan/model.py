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
class Capacity:
    """Everything that decides what is free, from a LIST made a moment ago: nobody's pods are left out."""

    nodes: tuple[Manifest, ...]
    pods: tuple[Manifest, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """One resource and everything that exists for it, at one moment.

    `pods` and `services` hold what bears the resource's UID in its owner references. `nodes` holds every node
    known, by name. `reports` holds the agents' answers by pod UID. `capacity` is there only on the second call,
    after a plan with `needs_capacity`.
    """

    resource: Manifest
    pods: tuple[Manifest, ...] = ()
    services: tuple[Manifest, ...] = ()
    nodes: Mapping[str, Manifest] = field(default_factory=dict)
    reports: Mapping[str, WorkerReport] = field(default_factory=dict)
    capacity: Capacity | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """One object to delete. `uid` is a precondition: another object of that name is never hit.

    `resource_version`, where given, is one as well: nothing may have happened to the object since it was seen.
    `grace_seconds=0` removes the object by force, without waiting for its node: only right for a pod whose
    node is unreachable. None leaves the object's own grace period.
    """

    kind: Literal["Pod", "Service", "TrainingJob"]
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
    """One pod whose agent is to be asked for its state until a later plan no longer names it."""

    pod_uid: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order: deletes, applies, creates, events, and the status last.

    - `creates`: pods, by a plain POST; that one is there already counts as done.
    - `applies`: complete objects, by server-side apply; only those that differ from what is observed.
    - `status`: the complete new status; None when what is recorded is still true (no write).
    - `events`: written only after everything before them succeeded.
    - `scrape`: the pods to ask from now on.
    - `look_again`: seconds after which to plan again though nothing may have happened; None: no need.
    - `needs_capacity`: plan again with `Observed.capacity`, and let no other resource be planned with it
      until this plan is carried out; nothing else of this plan is to be carried out.
    """

    creates: tuple[Manifest, ...] = ()
    applies: tuple[Manifest, ...] = ()
    deletes: tuple[Delete, ...] = ()
    status: Manifest | None = None
    events: tuple[Event, ...] = ()
    scrape: tuple[Target, ...] = ()
    look_again: float | None = None
    needs_capacity: bool = False
