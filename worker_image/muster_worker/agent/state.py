"""The document that `/state` answers and that the operator reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster_worker.agent.config import AgentConfig
    from muster_worker.agent.coordinator import Coordinator
    from muster_worker.agent.protocol import Member
    from muster_worker.agent.report import Progress
    from muster_worker.agent.rounds import Restart


@dataclass(frozen=True, slots=True)
class Own:
    """What this agent knows of itself. `error` is set once it has given up."""

    formed: bool = False
    formed_before: bool = False
    attempt: int = 0
    world_size: int = 0
    ranks_running: bool = False
    stopping: bool = False
    succeeded: bool = False
    failed: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """What the coordinator knows; only on the pod that hosts it. Times are seconds since the epoch."""

    attempt: int
    running: bool
    formed_before: bool
    members: tuple[tuple[Member, float], ...]
    restarts: tuple[Restart, ...]
    trouble: str | None
    reports_steps: bool
    asks_for: str | None

    @classmethod
    def of(cls, coordinator: Coordinator, now: float) -> Group:
        failure = coordinator.primary_failure
        return cls(
            attempt=coordinator.attempt,
            running=coordinator.running or coordinator.finished is not None,
            formed_before=coordinator.round is not None,
            members=tuple(coordinator.seats(now)),
            restarts=tuple(coordinator.restarts),
            trouble=failure.message if failure is not None else None,
            reports_steps=coordinator.reports_steps,
            asks_for=coordinator.asks_for(now),
        )


def phase(own: Own, group: Group | None, progress: Progress, *, recipe: bool) -> str:
    """Waiting: no round yet. Starting: formed, no step yet. Restarting: a round broke, no new one yet."""
    if own.succeeded or own.failed:
        return "Succeeded" if own.succeeded else "Failed"
    if own.stopping:
        return "Stopping"
    formed = own.formed and (group is None or group.running)
    if not formed:
        return "Restarting" if own.formed_before or (group is not None and group.formed_before) else "Waiting"
    if not own.ranks_running:
        return "Starting"
    # Only rank 0 of a recipe reports steps; of a script it shows only once it has.
    steps_expected = group is not None and (recipe or group.reports_steps)
    if steps_expected and "firstStepAt" not in progress.progress:
        return "Starting"
    return "Running"


def document(
    config: AgentConfig, own: Own, group: Group | None, progress: Progress, *, recipe: bool, monotonic_to_epoch: float
) -> dict[str, Any]:
    """The state as JSON types. `monotonic_to_epoch` added to the coordinator's times makes seconds since the epoch."""
    trouble = group.trouble if group is not None and not own.succeeded else None
    return {
        "job": config.job,
        "pod": config.pod,
        "rank": config.rank,
        "podAttempt": config.attempt,
        "attempt": max(config.attempt, own.attempt, group.attempt if group is not None else 0),
        "phase": phase(own, group, progress, recipe=recipe),
        "coordinates": group is not None,
        "asksFor": group.asks_for if group is not None else None,
        "worldSize": _world_size(config, own, group),
        "members": _members(group.members) if group is not None else [],
        "restarts": [_restart(restart, monotonic_to_epoch) for restart in group.restarts] if group else [],
        "progress": dict(progress.progress),
        "metrics": dict(progress.metrics),
        "checkpoint": progress.checkpoint,
        "model": progress.model,
        "stragglers": _by_pod(config, group, progress.stragglers) if group is not None else None,
        "preflight": _by_pod(config, group, progress.preflight) if group is not None else None,
        "error": own.error or trouble or progress.error,
    }


def _world_size(config: AgentConfig, own: Own, group: Group | None) -> int:
    """How many ranks there are, or are to be while there is no round. Servers have as many workers as have come."""
    if config.servers and group is not None and own.world_size:
        return len(group.members)
    return own.world_size or config.world_size


def _members(members: Sequence[tuple[Member, float]]) -> list[dict[str, Any]]:
    return [
        {"rank": member.rank, "pod": member.pod, "podAttempt": member.attempt, "silentSeconds": round(silence, 1)}
        for member, silence in members
    ]


def _by_pod(config: AgentConfig, group: Group, of_ranks: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """The pod that each rank is in instead of the rank.

    They are counted over the members in their order, but for parameter servers and their workers, who may be missing.
    """
    if of_ranks is None:
        return None
    members = sorted((member for member, _ in group.members), key=lambda member: member.rank)
    pods = {member.rank if config.servers else place: member.pod for place, member in enumerate(members)}
    places = ((one["rank"] // config.processes, one) for one in of_ranks)
    return [
        {"pod": pods[place]} | {name: value for name, value in one.items() if name != "rank"}
        for place, one in places
        if place in pods
    ]


def _restart(restart: Restart, monotonic_to_epoch: float) -> dict[str, Any]:
    failure = restart.failure
    return {
        "attempt": restart.attempt,
        "cause": failure.cause,
        "rank": failure.rank,
        "pod": failure.pod,
        "exitCode": failure.exit_code,
        "message": failure.message,
        "at": round(restart.at + monotonic_to_epoch, 3),
        "recoverySeconds": None if restart.recovery_seconds is None else round(restart.recovery_seconds, 3),
        "stepsLost": restart.steps_lost,
    }
