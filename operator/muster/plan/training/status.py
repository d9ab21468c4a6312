"""The status of a job: what is true of it now, in the words of the API.

Whatever matters (a phase, a condition, a count, a restart) is written at once. What only grows (step, loss,
checkpoint) is written at most every tenth of the job's age, between 1 and 10 seconds: a young job is watched
by a person, a thousand old ones by the API server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.conditions import condition
from muster.plan.conditions import find as find_condition
from muster.plan.timestamps import to_epoch, to_timestamp
from muster.plan.training.phase import Phase, phase
from muster.plan.training.progress import MEASURED, measured
from muster.plan.training.restarts import restarts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from muster.plan.model import Manifest
    from muster.plan.training.admission import Admission
    from muster.plan.training.failures import Loss, Verdict
    from muster.plan.training.view import View

SHORTEST_INTERVAL, LONGEST_INTERVAL = 1.0, 10.0


def waiting(view: View, admission: Admission) -> dict[str, Any]:
    """Return the status of a job that waits for room."""
    status = _status(view, Phase("Queued", admission.reason, admission.message), attempt=0)
    return status | {"conditions": [_admitted(view, admission)]}


def started(view: View, admission: Admission, lost: Sequence[Loss] = ()) -> dict[str, Any]:
    """Return the status of a job whose first pods are being made."""
    now = Phase("Starting", "PodsCreated", f"starting {view.replicas} workers")
    status = _status(view, now, attempt=1, lost=lost) | {"startTime": to_timestamp(view.now)}
    return status | {"conditions": [_admitted(view, admission), _running(view, now)]}


def active(view: View, attempt: int, lost: Sequence[Loss]) -> dict[str, Any]:
    """Return the status of a job that is neither waiting nor over; `attempt` is the one that follows the losses."""
    now = phase(view, attempt, lost)
    return _status(view, now, attempt, lost) | {"conditions": [*_kept(view, "Admitted"), _running(view, now)]}


def over(view: View, verdict: Verdict | None) -> dict[str, Any]:
    """Return the last status of a job: failed as the verdict says, or succeeded."""
    if verdict is None:
        now = Phase("Succeeded", "AllWorkersSucceeded", f"all {view.replicas} workers ended with exit code 0")
    else:
        now = Phase("Failed", verdict.reason, verdict.message)
    ending = condition(
        view.recorded.get("conditions", []),
        "Complete" if verdict is None else "Failed",
        holds=True,
        reason=now.reason,
        message=now.message,
        generation=view.job.metadata.generation,
        now=view.now,
    )
    status = _status(view, now, max(view.attempt, 1)) | {"completionTime": to_timestamp(view.now)}
    return status | {"conditions": [*_kept(view, "Admitted"), _running(view, now), ending]}


def refused(recorded: Manifest, generation: int, message: str, now: float) -> dict[str, Any]:
    """Return the status of a job whose spec this version does not accept; everything else stays as it was."""
    earlier = recorded.get("conditions", [])
    refusal = condition(
        earlier,
        "Admitted",
        holds=False,
        reason="InvalidSpec",
        message=message,
        generation=generation,
        now=now,
    )
    return {
        "phase": "Pending",
        **recorded,
        "observedGeneration": generation,
        "reason": "InvalidSpec",
        "message": message,
        "conditions": [refusal, *(kept for kept in earlier if kept["type"] != "Admitted")],
    }


def settle(view: View, status: Manifest) -> tuple[Manifest | None, float | None]:
    """Return what to write now, and after how many seconds to look again for what is put off.

    Nothing is written when nothing changed.
    """
    if status == view.recorded:
        return None, None
    last = view.recorded.get("progress")
    if last is None or _without_measured(status) != _without_measured(view.recorded):
        return status, None
    due = to_epoch(last["reportedAt"]) + _interval(view)
    return (status, None) if view.now >= due else (None, due - view.now)


def _status(view: View, now: Phase, attempt: int, lost: Sequence[Loss] = ()) -> dict[str, Any]:
    ready = sum(member is not None and member.running and member.ready for member in view.workers.values())
    done = sum(member is not None and member.succeeded for member in view.workers.values())
    status = {
        "observedGeneration": view.job.metadata.generation,
        "phase": now.name,
        "reason": now.reason,
        "message": now.message,
        "replicas": sum(member is not None and not member.ended for member in view.workers.values()),
        "readyReplicas": ready,
        "workers": f"{ready + done}/{view.replicas}",
        "selector": f"muster.dev/training-job={view.name}",
        "attempt": attempt,
        "restartCount": max(0, attempt - 1),
        "restarts": restarts(view, attempt, lost),
        "startTime": view.recorded.get("startTime"),
        **measured(view.group, view.recorded),
    }
    return {name: value for name, value in status.items() if value not in (None, [])}


def _admitted(view: View, admission: Admission) -> dict[str, Any]:
    return condition(
        view.recorded.get("conditions", []),
        "Admitted",
        holds=admission.granted,
        reason=admission.reason,
        message=admission.message,
        generation=view.job.metadata.generation,
        now=view.now,
    )


def _running(view: View, now: Phase) -> dict[str, Any]:
    return condition(
        view.recorded.get("conditions", []),
        "Running",
        holds=now.name == "Running",
        reason=now.reason,
        message=now.message,
        generation=view.job.metadata.generation,
        now=view.now,
    )


def _kept(view: View, kind: str) -> list[Manifest]:
    known = find_condition(view.recorded.get("conditions", []), kind)
    return [] if known is None else [known]


def _interval(view: View) -> float:
    start = view.recorded.get("startTime")
    age = view.now - to_epoch(start) if start else 0.0
    return min(LONGEST_INTERVAL, max(SHORTEST_INTERVAL, age / 10))


def _without_measured(status: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name not in MEASURED}
