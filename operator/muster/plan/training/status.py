"""The status of a job: what is true of it now, in the words of the API."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from muster.plan.conditions import condition, find, is_true, merged
from muster.plan.timestamps import to_timestamp
from muster.plan.training import attempts, elastic, leadership, preflight, success
from muster.plan.training.failures import losses_before
from muster.plan.training.phase import Phase, phase
from muster.plan.training.phase import started as first_phase
from muster.plan.training.progress import measured
from muster.plan.training.restarts import restarts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.plan.model import Admission, Manifest
    from muster.plan.training.failures import Loss, Verdict
    from muster.plan.training.pods import Chosen
    from muster.plan.training.view import View


def waiting(view: View, admission: Admission) -> dict[str, Any]:
    """Return the status of a job that waits for room."""
    now = Phase("Queued", admission.reason, admission.message)
    said = _condition(view, "Admitted", now, holds=False), _running(view, now), *_resumed(view)
    return _status(view, now, view.attempt) | {"conditions": _conditions(view, *said)}


def tells(view: View, admission: Admission) -> bool:
    """Whether it is recorded that the job waits for this reason."""
    said = find(view.recorded.get("conditions", []), "Admitted")
    return said is not None and said["status"] == "False" and said["reason"] == admission.reason


def started(view: View, admission: Admission, attempt: int, chosen: Chosen) -> dict[str, Any]:
    """Return the status of a job whose pods are being made, all of this attempt."""
    # In the words that the next look finds, so that it has nothing to write before a worker runs.
    now = first_phase(view)
    admitted = Phase(now.name, admission.reason, admission.message)
    said = _condition(view, "Admitted", admitted, holds=True), _running(view, now), *_resumed(view)
    of_choice = {"topologyDomain": chosen.domain, "initialModel": chosen.initial_model}
    return (
        _status(view, now, attempt)
        | {name: value for name, value in of_choice.items() if value is not None}
        | {
            "replicas": view.job.spec.replicas,
            "startTime": to_timestamp(view.now),
            "conditions": _conditions(view, *said),
        }
    )


def suspended(view: View) -> dict[str, Any]:
    """Return the status of a job that is stopped on request, or on its way there."""
    leaving = [member.name for member in view.members if not member.ended]
    now = Phase("Suspended", "Suspended", "spec.suspend is true")
    if leaving:
        now = Phase("Suspended", "Stopping", f"spec.suspend is true; still on their way out: {', '.join(leaving)}")
    said = (
        _condition(view, "Admitted", now, holds=False),
        _running(view, now),
        _condition(view, "Suspended", now, holds=not leaving),
    )
    return _status(view, now, view.attempt) | {"conditions": _conditions(view, *said)}


def active(view: View, attempt: int, lost: Sequence[Loss], *, grows: bool = False) -> dict[str, Any]:
    """Return the status of a job that is neither waiting nor over.

    `attempt` is the one that follows the losses, or (`grows`) the one in which workers are added.
    """
    now = phase(view, attempt, lost)
    return _status(view, now, attempt, lost, grows=grows) | {"conditions": _conditions(view, _running(view, now))}


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Why pods cannot be made for `seconds`; `message` goes on a sentence about them."""

    reason: str
    message: str
    seconds: float


def held_up(view: View, why: HeldUp, lost: Sequence[Loss]) -> dict[str, Any]:
    """Return the status of a job whose lost workers get no successors for now, or to which none are added."""
    now = Phase("Restarting", why.reason, f"the successors of lost workers {why.message}")
    if not lost or elastic.goes_on(view):
        trains = phase(view, view.attempt, ())
        whose = "the successors of lost workers" if lost else "workers to be added"
        now = replace(trains, message=f"{trains.message}; {whose} {why.message}")
    of_made = {"wantedReplicas": min(view.known_replicas, view.replicas) - view.servers}
    return _status(view, now, view.attempt) | of_made | {"conditions": _conditions(view, _running(view, now))}


def over(view: View, verdict: Verdict | None) -> dict[str, Any]:
    """Return the last status of a job: failed as the verdict says, or succeeded."""
    if verdict is None:
        now = Phase("Succeeded", f"{view.job.spec.success_policy}Succeeded", success.message(view))
    else:
        now = Phase("Failed", verdict.reason, verdict.message)
    ending = _condition(view, "Complete" if verdict is None else "Failed", now, holds=True)
    last = {"completionTime": to_timestamp(view.now), "conditions": _conditions(view, _running(view, now), ending)}
    if verdict is None:
        last["workers"] = f"{_stayed(view)}/{view.job.spec.replicas}"
    return _status(view, now, view.attempt) | last


def _stayed(view: View) -> int:
    """Return how many workers were there to the end: with it they stop to be ready, some a moment before they end."""
    return sum(m is not None and not m.failed for rank, m in view.workers.items() if rank >= view.servers)


def refused(recorded: Manifest, generation: int, message: str, now: float) -> dict[str, Any]:
    """Return the status of a job whose spec this version does not accept; everything else stays as it was.

    That it is admitted, too: another version may have made its pods, and will look after them again.
    """
    earlier = recorded.get("conditions", [])
    said = {"observedGeneration": generation, "reason": "InvalidSpec", "message": message}
    if not is_true(earlier, "Admitted"):
        refusal = condition(
            earlier, "Admitted", holds=False, reason="InvalidSpec", message=message, generation=generation, now=now
        )
        said["conditions"] = merged(earlier, refusal)
    return {"phase": "Pending", **recorded, **said}


def edited(view: View) -> dict[str, Any] | None:
    """Return the status of a job that is over, where its spec was changed since: as it was, but of that generation.

    Whoever waits for a change to be looked at, as those do who apply what a repository holds, would wait for ever.
    """
    generation = view.job.metadata.generation
    if view.recorded.get("observedGeneration") == generation:
        return None
    return {**view.recorded, "observedGeneration": generation}


def _status(view: View, now: Phase, attempt: int, lost: Sequence[Loss] = (), *, grows: bool = False) -> dict[str, Any]:
    workers = [member for rank, member in view.workers.items() if rank >= view.servers and member is not None]
    ready = sum(member.running and member.ready for member in workers)
    done = sum(member.succeeded for member in workers)
    status = {
        "observedGeneration": view.job.metadata.generation,
        "phase": now.name,
        "reason": now.reason,
        "message": now.message,
        "wantedReplicas": elastic.size_to_record(view),
        "replicas": sum(not member.ended for member in workers),
        "readyReplicas": ready,
        "workers": f"{ready + done}/{view.job.spec.replicas}",
        "selector": f"muster.dev/training-job={view.name}",
        "attempt": attempt,
        "plannedAttempts": attempts.planned(view, attempt, grows=grows) or None,
        "entrusted": leadership.entrusted(view),
        "restartCount": attempts.restarts(view, attempt, grows=grows),
        "restarts": restarts(view, attempt, lost, losses_before(view)),
        "startTime": view.recorded.get("startTime"),
        "topologyDomain": view.recorded.get("topologyDomain") if view.admitted else None,
        "initialModel": view.recorded.get("initialModel"),
        "preflight": preflight.record(view),
        **measured(view.group, view.recorded),
    }
    return {name: value for name, value in status.items() if value not in (None, [])}


def _conditions(view: View, *said: Manifest) -> list[Manifest]:
    return merged(view.recorded.get("conditions", []), *said)


def _running(view: View, now: Phase) -> dict[str, Any]:
    return _condition(view, "Running", now, holds=now.name == "Running")


def _resumed(view: View) -> tuple[Manifest, ...]:
    """Return that the job is not suspended, where it once was."""
    if find(view.recorded.get("conditions", []), "Suspended") is None:
        return ()
    return (_condition(view, "Suspended", Phase("", "Resumed", "spec.suspend is false"), holds=False),)


def _condition(view: View, kind: str, now: Phase, *, holds: bool) -> dict[str, Any]:
    return condition(
        view.recorded.get("conditions", []),
        kind,
        holds=holds,
        reason=now.reason,
        message=now.message,
        generation=view.job.metadata.generation,
        now=view.now,
    )
