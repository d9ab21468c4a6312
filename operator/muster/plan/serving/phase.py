"""In which phase a deployment is, and the sentence that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.plan.serving import canary, failovers, gateway, progress, rollout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.plan.serving.failovers import Loss
    from muster.plan.serving.groups import Worker
    from muster.plan.serving.rollout import Slot
    from muster.plan.serving.view import View


_UNHEARD = (
    "none of the pods answers the operator, also not those that took the place of others: they stay in the Service, and"
    " no more are made; let the operator through to their port 8080, which a NetworkPolicy may deny it"
)


@dataclass(frozen=True, slots=True)
class Phase:
    """`reason` and `message` are those of the conditions that follow from it. `progressing`: something changes."""

    name: str
    reason: str
    message: str
    progressing: bool = True


def phase(view: View, slots: Sequence[Slot], lost: Sequence[Loss]) -> Phase:
    """Return Ready only while every group answers and has what the spec asks for."""
    if view.replicas == 0:
        return _scaled_to_zero(view)
    if view.failed:
        return _given_up(view, slots)
    answering, done = sum(slot.answers for slot in slots), sum(slot.is_done for slot in slots)
    open_losses = [slot for slot in slots if not slot.answers and failovers.is_open(view, lost, slot.group)]
    if view.current is not None and view.is_rolling:
        return _rolling(view, slots)
    if done == len(slots) and not _anything_else(view):
        message = f"{_groups(done)} answer{'s' if done == 1 else ''}{_difference(view, slots)}"
        return Phase("Ready", "Ready", message, progressing=False)
    if open_losses:
        return _replacing(view, slots, open_losses)
    if view.current is None:
        return Phase("Starting", "Starting", f"{answering} of {_groups(len(slots))} answer{_trouble(view, slots)}")
    if any(one.cordoned for slot in slots for one in slot.old):
        message = f"{done} of {_groups(len(slots))} are on nodes where they may stay{_why(view, slots)}"
        return Phase("RollingOut", "LeavingNodes", message)
    worn_out = next((one for slot in slots for one in slot.old if view.is_worn_out(one)), None)
    if worn_out is not None:
        died = f"processes of {worn_out.name} have died {view.deaths(worn_out)} times"
        return Phase("Degraded", "TooManyRestarts", f"{died}: another takes its place{_why(view, slots)}")
    was_whole = view.recorded.get("phase") in {"Ready", "Degraded"} and view.made_replicas == len(slots)
    if answering < len(slots) and was_whole:
        return Phase("Degraded", "NotAnswering", f"{answering} of {_groups(len(slots))} answer{_trouble(view, slots)}")
    return Phase("RollingOut", "Scaling", f"{answering} of {_groups(len(slots))} answer{_trouble(view, slots)}")


def _replacing(view: View, slots: Sequence[Slot], lost: Sequence[Slot]) -> Phase:
    if view.unheard & {slot.group for slot in lost}:
        return Phase("Degraded", "Unheard", _UNHEARD, progressing=False)
    message = f"{_groups(len(lost))} of {len(slots)} lost, being replaced{_trouble(view, slots)}"
    return Phase("Degraded", "Replacing", message)


def _rolling(view: View, slots: Sequence[Slot]) -> Phase:
    assert view.target is not None, "asked of rollouts alone"
    new = progress.updated(view, slots)
    message = f"{new} of {_groups(len(slots))} answer with revision {view.target.name}"
    if view.deployment.spec.rollout.paused:
        return Phase("RollingOut", "Paused", f"{message}; spec.rollout.paused is true", progressing=False)
    if (withheld := gateway.withheld(view)) is not None:
        return Phase("RollingOut", withheld.reason, f"{message}; {withheld.message}", progressing=False)
    step, steps = canary.step(view), len(canary.steps(view))
    if step <= steps:
        message = f"step {step} of {steps}: {message}"
    kept = view.deployment.spec.rollout.partition
    if kept > canary.kept(view) and all(slot.is_done for slot in slots):
        return Phase("RollingOut", "Partitioned", f"{message}; spec.rollout.partition is {kept}", progressing=False)
    if step <= steps:
        return Phase("RollingOut", "Canary", f"{message}{_why(view, slots)}")
    return Phase("RollingOut", "RollingOut", f"{message}{_why(view, slots)}")


def _given_up(view: View, slots: Sequence[Slot]) -> Phase:
    assert view.target is not None, "what failed is known"
    why = f"revision {view.target.name} was given up: {view.failure}"
    if view.current is None:
        return Phase("Failed", "RolloutFailed", why, progressing=False)
    if rollout.is_held(view):
        field = "paused is true" if view.deployment.spec.rollout.paused else "onFailure is Pause"
        return Phase("Failed", "RolloutFailed", f"{why}; spec.rollout.{field}", progressing=False)
    back = sum(slot.is_done for slot in slots)
    returning = back < len(slots) or _anything_else(view)
    message = f"{why}; {back} of {_groups(len(slots))} answer with revision {view.current.name}"
    return Phase("RolledBack", "RolledBack", message, progressing=returning)


def _scaled_to_zero(view: View) -> Phase:
    reason, why = "ScaledToZero", "spec.replicas is 0"
    if view.deployment.spec.suspend:
        reason, why = "Suspended", "spec.suspend is true"
    leaving = [pod.name for one in view.servers for pod in one.pods if not pod.ended]
    if leaving:
        return Phase("Suspended", "Stopping", f"{why}; still on their way out: {', '.join(leaving)}")
    return Phase("Suspended", reason, why, progressing=False)


def _anything_else(view: View) -> bool:
    """Whether there is something that is to leave and was not told yet."""
    return any(one.group >= view.replicas and not view.is_over(one) for one in view.servers)


def _difference(view: View, slots: Sequence[Slot]) -> str:
    """Return which models groups have, where something else has come to the same place since the first loaded it."""
    models = [(view.state(one) or {}).get("model") or {} for slot in slots for one in slot.good]
    found = sorted({model["sha256"] for model in models if "sha256" in model})
    if len(found) < 2:
        return ""
    return f", but not with the same model: write the one that is meant into spec.model.sha256: {' or '.join(found)}"


def _why(view: View, slots: Sequence[Slot]) -> str:
    """Return what the next step waits for, where that is more than time."""
    stuck = _unplaced(slots)
    if (stuck is None and view.denied is None) or rollout.most_unavailable(view):
        return _trouble(view, slots)
    why = f"no node takes {stuck.name}: {stuck.message}" if stuck is not None else _denied(view)
    return (
        f"; {why}. Nothing is taken down before it answers: free room for it, or set spec.rollout.maxUnavailable to 1"
        " and groups are replaced in place"
    )


def _trouble(view: View, slots: Sequence[Slot]) -> str:
    """Return why a group does not answer, where its pods, the kubelet or the count of room says so."""
    often = failovers.repeated(view)
    if often is not None:
        return f"; {often}"
    silent = (one.troubled for slot in slots for one in slot.good if not one.answers)
    troubled = next((pod for pod in silent if pod is not None), None)
    if troubled is None:
        return f"; {_denied(view)}" if view.denied is not None else ""
    why = troubled.last_words if troubled.died_of else troubled.message or troubled.reason
    return f"; {troubled.name} cannot start: {why}"


def _denied(view: View) -> str:
    return f"no group is made: {view.denied.message}" if view.denied is not None else ""


def _unplaced(slots: Sequence[Slot]) -> Worker | None:
    return next((pod for slot in slots for one in slot.good if (pod := one.unplaced) is not None), None)


def _groups(count: int) -> str:
    return "1 group" if count == 1 else f"{count} groups"
