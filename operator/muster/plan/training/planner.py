"""What to do about a TrainingJob now.

Invariants, whatever was lost, late or stale before this call:
- a job has all of its first pods or none is made;
- no rank gets a pod while an earlier pod of that rank may still run, unless that one's node is unreachable,
  and then the earlier one's lower attempt keeps it out of the group;
- a pod of a healthy worker is never touched;
- the end is recorded in the status before anything is removed, and nothing is made after it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from muster.api import OPERATOR, TrainingJob
from muster.api.errors import explain
from muster.plan import conditions
from muster.plan.drift import differs
from muster.plan.model import Event, Plan, Target
from muster.plan.training import admission, failures, pods, removal, status
from muster.plan.training.events import events
from muster.plan.training.success import succeeded
from muster.plan.training.view import View, view

if TYPE_CHECKING:
    from muster.plan.model import Capacity, Manifest, Observed, Settings
    from muster.plan.training.failures import Loss


def plan(observed: Observed, settings: Settings, now: float) -> Plan:
    """Return what to do about the job: see the module's invariants."""
    try:
        job = TrainingJob.model_validate(observed.resource)
    except ValidationError as error:
        return _refuse(observed.resource, explain(error), now)
    if job.spec.managed_by != OPERATOR:
        return Plan()
    seen = view(job, observed, settings, now)
    if _is_over(seen):
        return Plan(deletes=removal.of_leftovers(seen))
    if not seen.started:
        return _start(seen, observed.capacity)
    if succeeded(seen):
        return _write(seen, Plan(), status.over(seen, None))
    return _keep_going(seen, observed)


def _start(seen: View, capacity: Capacity | None) -> Plan:
    """Make the whole gang, or nothing; complete it where the operator was lost in the middle of making it."""
    gang = {rank: pods.build_pod(seen.job, seen.settings, rank, attempt=1) for rank in range(seen.replicas)}
    if seen.members:
        answer = admission.begun()
    elif seen.job.spec.scheduling.gang == "none":
        answer = admission.unconditional()
    elif capacity is None:
        return Plan(needs_capacity=True)
    else:
        answer = admission.admit([pod["spec"] for pod in gang.values()], capacity)
    if not answer.granted:
        return _write(seen, Plan(look_again=admission.LOOK_AGAIN_SECONDS), status.waiting(seen, answer))
    missing = tuple(pod for rank, pod in gang.items() if seen.workers[rank] is None)
    actions = Plan(applies=(pods.build_service(seen.job),), creates=missing)
    return _write(seen, actions, status.started(seen, answer))


def _keep_going(seen: View, observed: Observed) -> Plan:
    """Replace what is lost, let the rest alone, and say how far the job is."""
    lost = failures.losses(seen)
    verdict = failures.verdict(seen, lost)
    if verdict is not None:
        return _write(seen, Plan(), status.over(seen, verdict))
    attempt = failures.next_attempt(seen, lost) if lost else seen.attempt
    actions = Plan(
        deletes=removal.of_lost(lost),
        applies=_service(seen, observed),
        creates=tuple(pods.build_pod(seen.job, seen.settings, rank, attempt) for rank in _vacant(seen, lost)),
        scrape=_targets(seen),
        look_again=failures.patience(seen),
    )
    return _write(seen, actions, status.active(seen, attempt, lost))


def _vacant(seen: View, lost: tuple[Loss, ...]) -> list[int]:
    """Return the ranks that get a new pod: the lost, and with them those that ended well, for a group trains whole."""
    if not lost:
        return []
    done = {rank for rank, member in seen.workers.items() if member is not None and member.succeeded}
    return sorted({loss.rank for loss in lost} | done)


def _service(seen: View, observed: Observed) -> tuple[Manifest, ...]:
    wanted = pods.build_service(seen.job)
    found = next((s for s in observed.services if s["metadata"]["name"] == wanted["metadata"]["name"]), None)
    return (wanted,) if differs(wanted, _with_type(found)) else ()


def _with_type(listed: Manifest | None) -> Manifest | None:
    """A LIST leaves apiVersion and kind out of its items."""
    return None if listed is None else {"apiVersion": "v1", "kind": "Service", **listed}


def _targets(seen: View) -> tuple[Target, ...]:
    """Rank 0's agent answers for the group."""
    leader = seen.workers.get(0)
    if leader is None or leader.address is None or not leader.running:
        return ()
    return (Target(leader.uid, leader.address, pods.AGENT_PORT),)


def _is_over(seen: View) -> bool:
    recorded = seen.recorded.get("conditions", [])
    return conditions.is_true(recorded, "Complete") or conditions.is_true(recorded, "Failed")


def _refuse(resource: Manifest, message: str, now: float) -> Plan:
    recorded = resource.get("status") or {}
    refusal = status.refused(recorded, resource["metadata"].get("generation", 1), message, now)
    if refusal == recorded:
        return Plan()
    return Plan(status=refusal, events=(Event("Warning", "InvalidSpec", message),))


def _write(seen: View, actions: Plan, wanted: Manifest) -> Plan:
    """Add the status to write, if any, and when to look again."""
    now, later = status.settle(seen, wanted)
    moments = [moment for moment in (actions.look_again, later) if moment is not None]
    return replace(
        actions,
        status=now,
        events=events(seen.recorded, wanted) if now is not None else (),
        look_again=min(moments, default=None),
    )
