"""In which phase a started job is, and the sentence that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.plan.training.failures import Loss
    from muster.plan.training.members import Member
    from muster.plan.training.view import View


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
    missing = tuple(member for member in view.workers.values() if member and not member.ended and not member.running)
    if not missing and _trains(view, attempt):
        return Phase("Running", "Training", f"all {view.replicas} workers train")
    restarts = attempt > view.recorded.get("attempt", 0) or view.recorded.get("phase") in {"Running", "Restarting"}
    name = "Restarting" if restarts else "Starting"
    stuck = next((member for member in missing if member.reason), None)
    if stuck is not None:
        return Phase(name, stuck.reason, f"{stuck.name} cannot start: {stuck.message or stuck.reason}")
    return Phase(name, "WaitingForWorkers", _waiting_for(view, missing))


def _trains(view: View, attempt: int) -> bool:
    """Return what the group says, or what is recorded of it until an operator that has just started has asked."""
    said = view.group or view.recorded
    return said.get("phase") in {"Running", "Succeeded"} and int(said["attempt"]) >= attempt


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
        return starting(view.replicas)
    return f"{view.replicas - len(missing)} of {view.replicas} workers run"


def starting(workers: int) -> str:
    return f"starting {workers} workers"
