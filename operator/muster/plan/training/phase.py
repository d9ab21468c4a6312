"""In which phase a started job is, and the sentence that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.plan.training import elastic, pod_groups, servers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.plan.training.failures import Loss
    from muster.plan.training.members import Member
    from muster.plan.training.view import View

WAITING, WAITING_FOR_SCHEDULER, TRAINING = "WaitingForWorkers", "WaitingForScheduler", "Training"
EXPECTED = frozenset({WAITING, WAITING_FOR_SCHEDULER, TRAINING})
"""Reasons that come and go by themselves while a gang starts. Any other is a trouble that somebody waits to hear of."""


@dataclass(frozen=True, slots=True)
class Phase:
    """`reason` and `message` are those of the condition that the phase shows as."""

    name: str
    reason: str
    message: str


def phase(view: View, attempt: int, lost: Sequence[Loss]) -> Phase:
    """Return Running only while every worker runs, on a node that answers, and the group says that it trains."""
    if lost:
        return Phase("Restarting", lost[0].cause, lost[0].message)
    if not view.group and _was_running(view, attempt):
        return Phase("Running", view.recorded["reason"], view.recorded["message"])
    if elastic.goes_on(view) or _misses_workers(view):
        return Phase("Running", TRAINING, _how_many_train(view))
    missing = tuple(member for member in view.workers.values() if member and not member.ended and not member.running)
    trains = view.group.get("phase") in {"Running", "Succeeded"}
    if not missing and trains and int(view.group["attempt"]) >= _attempt_of_group(view, attempt):
        return Phase("Running", TRAINING, f"all {view.gang} train")
    restarts = attempt > view.recorded.get("attempt", 0) or view.recorded.get("phase") in {"Running", "Restarting"}
    name = "Restarting" if restarts else "Starting"
    unplaced = tuple(member for member in missing if member.node is None and not member.deleting)
    if unplaced and (scheduler := pod_groups.scheduler(view.job)) is not None:
        said = next((member.message for member in unplaced if member.message), "")
        waiting = _waiting_for_scheduler(scheduler, view, len(unplaced), said)
        return Phase(name, WAITING_FOR_SCHEDULER, waiting)
    stuck = next((member for member in missing if member.reason), None)
    if stuck is not None:
        return Phase(name, stuck.reason, f"{stuck.name} cannot start: {stuck.message or stuck.reason}")
    return Phase(name, WAITING, _waiting_for(view, missing))


def _attempt_of_group(view: View, attempt: int) -> int:
    """Return the attempt that its agents tell of once it trains: servers hear of no worker that left before it came."""
    if not view.servers:
        return attempt
    ranks = view.workers.items()
    return max(
        (member.attempt for rank, member in ranks if rank < view.servers and member is not None), default=attempt
    )


def _misses_workers(view: View) -> bool:
    """Parameter servers train with the workers that are there."""
    return view.workers_running < view.job.spec.replicas and servers.go_on(view)


def _how_many_train(view: View) -> str:
    if view.servers:
        return f"{view.workers_running} of {view.job.spec.replicas} workers train; the others join them when they run"
    training = len(view.group.get("members", []))
    if training >= view.replicas:
        return f"all {view.replicas} workers train"
    return f"{training} of {view.replicas} workers train; the others join them when they run"


def _was_running(view: View, attempt: int) -> bool:
    """An operator that has just started has asked nobody yet: what is recorded holds while enough workers run."""
    if view.recorded.get("phase") != "Running" or int(view.recorded["attempt"]) < attempt:
        return False
    return sum(member is not None and member.running for member in view.workers.values()) >= servers.fewest(view.job)


def _waiting_for(view: View, missing: Sequence[Member]) -> str:
    if not missing:
        return "all workers run and are finding each other"
    leaving = [member.name for member in missing if member.deleting]
    if leaving:
        return f"{', '.join(leaving)} is being deleted and gets a successor"
    cut_off = [f"{member.name} on {member.node}" for member in missing if member.unreachable_since is not None]
    if cut_off:
        return f"the node does not answer: {', '.join(cut_off)}"
    if len(missing) == view.replicas:
        return _starting(view)
    return f"{view.replicas - len(missing)} of {view.replicas} {_pods(view)} run"


def _pods(view: View) -> str:
    return "pods" if view.servers else "workers"


def _waiting_for_scheduler(scheduler: str, view: View, unplaced: int, said: str = "") -> str:
    waiting = f"waiting for {scheduler} to place {unplaced} of {view.replicas} {_pods(view)}"
    return f"{waiting}: {said}" if said else waiting


def started(view: View) -> Phase:
    """Return the phase of a job whose pods are being made, in the words that the next look finds."""
    scheduler = pod_groups.scheduler(view.job)
    if scheduler is not None:
        return Phase("Starting", WAITING_FOR_SCHEDULER, _waiting_for_scheduler(scheduler, view, view.replicas))
    return Phase("Starting", WAITING, _starting(view))


def _starting(view: View) -> str:
    return f"starting {view.gang}"
