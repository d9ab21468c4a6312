"""What to do about a TrainingJob now.

Invariants, whatever was lost, late or stale before this call:
- a job has all of its first pods or none is made;
- no rank gets a pod while an earlier pod of that rank may still run, unless that one's node is unreachable,
  and then the earlier one's lower attempt keeps it out of the group;
- a pod of a healthy worker is never touched;
- a loss is recorded in the status before what is left of it is removed, and so is the end; nothing is made after it;
- a job that Kueue admits has pods only while it holds quota, and gives none back while it has pods.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ValidationError

from muster.api import OPERATOR, TrainingJob
from muster.api.base import unreported
from muster.api.errors import explain
from muster.plan import conditions, refusals
from muster.plan.drift import is_outdated
from muster.plan.model import Event, Plan
from muster.plan.removal import of_living
from muster.plan.training import (
    admission,
    attempts,
    backoff,
    deadline,
    elastic,
    failures,
    images,
    initial_model,
    kueue,
    leadership,
    pacing,
    placement,
    pod_groups,
    pods,
    preflight,
    removal,
    retention,
    status,
)
from muster.plan.training.events import events
from muster.plan.training.status import HeldUp
from muster.plan.training.success import succeeded
from muster.plan.training.view import View, view

if TYPE_CHECKING:
    from muster.plan.model import Admission, Demand, Manifest, Observed, Settings
    from muster.plan.training.failures import Loss


UNKNOWN_PLACEMENT = 1.0
"""Seconds after which to look again whether it is known where the pods of a job that Kueue admitted may go."""


def plan(observed: Observed, settings: Settings, now: float) -> Plan:
    """Return what to do about the job: see the module's invariants."""
    try:
        job = TrainingJob.model_validate(unreported(observed.resource))
    except ValidationError as error:
        return _refuse(observed.resource, explain(error), now)
    if job.spec.managed_by != OPERATOR:
        return Plan()
    answer = _plan(view(job, observed, settings, now), observed)
    return replace(answer, needs=kueue.NEEDS) if kueue.is_asked(job) else answer


def _plan(seen: View, observed: Observed) -> Plan:
    if _is_over(seen):
        return _tidy_up(seen)
    if seen.admitted and succeeded(seen):
        return _write(seen, Plan(), status.over(seen, None))
    if seen.job.spec.suspend:
        deletes = of_living(seen.members) + kueue.withdrawal(seen)
        return _write(seen, Plan(deletes=deletes), status.suspended(seen))
    withheld = kueue.withheld(seen)
    if withheld is not None:
        return _stop(seen, withheld)
    if not seen.admitted:
        return _start(seen, observed)
    return _keep_going(seen, observed)


def _stop(seen: View, answer: Admission) -> Plan:
    """Have the workers save and leave, if there are any, and wait until the job may run again."""
    # Told first: a look at how it was before must find the resource changed when the quota is somebody else's.
    parts = kueue.reports(seen) if status.tells(seen, answer) else ()
    # A flavor that is made wakes nobody: it is no job's.
    unknown = seen.workload is not None and not kueue.placement_is_known(seen)
    look_again = UNKNOWN_PLACEMENT if unknown else None
    actions = Plan(deletes=of_living(seen.members), parts=parts, look_again=look_again)
    return _write(seen, actions, status.waiting(seen, admission.stopping(seen, answer)))


def _start(seen: View, observed: Observed) -> Plan:
    """Make the whole gang, or nothing; complete it where the operator was lost in the middle of making it."""
    attempt = attempts.of_gang(seen)
    if observed.refusal is not None and (pause := refusals.pause(observed.refusal, seen.now)):
        actions = Plan(deletes=of_living(seen.members), look_again=pause)
        return _write(seen, actions, status.waiting(seen, admission.refused(observed.refusal.message)))
    if (pause := placement.pause_left(seen)) is not None:
        actions = Plan(deletes=of_living(seen.members), look_again=pause)
        return _write(seen, actions, status.waiting(seen, admission.still_taken_back(seen)))
    leaving = [member for member in seen.members if not member.ended and member.attempt < attempt]
    if leaving:
        return _write(seen, Plan(deletes=of_living(leaving)), status.waiting(seen, admission.after(leaving)))
    lacking = initial_model.lacking(seen)
    if lacking is not None:
        return _write(seen, Plan(), status.waiting(seen, lacking))
    there = [member for member in seen.members if member.attempt == attempt]
    begun = admission.begun(there) if attempts.gang_was_begun(seen) else None
    answer = kueue.granted(seen) or begun or observed.admission
    domain, image = answer.domain if answer else None, images.in_use(there)
    chosen = pods.Chosen(domain, initial_model.used(seen), preflight.avoided(seen), image)
    gang = {rank: _pod(seen, rank, attempt, chosen) for rank in range(seen.replicas)}
    demand = admission.demand(seen, gang.values())
    if answer is None:
        return Plan(demand=demand)
    if not answer.granted:
        return _write(seen, Plan(demand=demand), status.waiting(seen, answer))
    if kueue.is_asked(seen.job) and seen.workload is None:
        return _enter_queue(seen, demand, answer)
    missing = tuple(pod for rank, pod in gang.items() if rank not in {member.rank for member in there})
    actions = Plan(applies=(pods.build_service(seen.job), *pod_groups.build_group(seen.job)), creates=missing)
    return _write(seen, actions, status.started(seen, answer, attempt, chosen))


def _enter_queue(seen: View, demand: Demand, answer: Admission) -> Plan:
    """Make the Workload, once it is known that there is none; who is asked about it comes to look again."""
    if seen.workloads_unknown:
        return Plan(demand=demand)
    build_pod = partial(pods.build_pod, seen.job, seen.settings, attempt=1)
    workload = kueue.build_workload(seen.job, build_pod, answer.priority)
    return _write(seen, Plan(applies=(workload,)), status.waiting(seen, kueue.queued(seen.job)))


def _keep_going(seen: View, observed: Observed) -> Plan:
    """Replace what is lost, let the rest alone, and say how far the job is."""
    lost = failures.losses(seen)
    verdict = failures.verdict(seen, lost) or deadline.verdict(seen)
    if verdict is not None:
        return _write(seen, Plan(), status.over(seen, verdict))
    stuck = placement.stuck(seen)
    if stuck is not None:
        answer = admission.taken_back(stuck, placement.pause(seen))
        return _write(seen, Plan(deletes=of_living(seen.members)), status.waiting(seen, answer))
    added = elastic.added(seen)
    held_up = _held_up(seen, observed, lost) if lost or added else None
    attempt, vacant = seen.attempt, list[int]()
    if held_up is not None:
        wanted = status.held_up(seen, held_up, lost)
    else:
        attempt = attempts.after(seen, lost) if lost else attempts.of_added(seen) if added else seen.attempt
        vacant = sorted({*_vacant(seen, lost), *added})
        wanted = status.active(seen, attempt, lost, grows=bool(added) and not lost)
    avoided, image = preflight.avoided(seen, lost), images.in_use(seen.members, lost)
    chosen = pods.Chosen(seen.recorded.get("topologyDomain"), seen.recorded.get("initialModel"), avoided, image)
    actions = Plan(
        deletes=removal.of_superseded(seen) + of_living(elastic.surplus(seen)),
        applies=_service(seen, observed),
        creates=tuple(_pod(seen, rank, attempt, chosen) for rank in vacant),
        parts=kueue.reports(seen),
        scrape=leadership.targets(seen, trains=wanted["phase"] == "Running"),
        look_again=_soonest(
            held_up.seconds if held_up is not None else None,
            failures.patience(seen),
            deadline.seconds_left(seen),
            placement.seconds_left(seen),
        ),
    )
    return _write(seen, actions, wanted)


def _held_up(seen: View, observed: Observed, lost: tuple[Loss, ...]) -> HeldUp | None:
    """Return why no pods can be made now for who is lost or added, if they cannot."""
    pause = refusals.pause(observed.refusal, seen.now)
    if observed.refusal is not None and pause is not None:
        return HeldUp("PodsRefused", f"are refused: {observed.refusal.message}", pause)
    wait = backoff.seconds_left(seen, lost) if lost else None
    if wait is not None:
        return HeldUp("BackOff", f"wait, as those before ended soon after one another: {lost[0].message}", wait)
    if lost and not kueue.placement_is_known(seen):
        return HeldUp("PlacementUnknown", "wait until it is known where Kueue admitted them", UNKNOWN_PLACEMENT)
    return None


def _tidy_up(seen: View) -> Plan:
    """Remove what is not to be kept of a job that is over, and in the end the job itself."""
    return Plan(
        deletes=removal.after_the_end(seen) + retention.removal(seen),
        parts=kueue.reports(seen, over=_ending(seen)),
        status=status.edited(seen),
        look_again=retention.seconds_left(seen),
    )


def _pod(seen: View, rank: int, attempt: int, chosen: pods.Chosen) -> Manifest:
    return kueue.placed(seen, rank, pods.build_pod(seen.job, seen.settings, rank, attempt, chosen))


def _vacant(seen: View, lost: tuple[Loss, ...]) -> list[int]:
    """Return the ranks that get a new pod: the lost, and with them those that ended well, for a group trains whole."""
    if not lost:
        return []
    done = {rank for rank, member in seen.workers.items() if member is not None and member.succeeded}
    return sorted({loss.rank for loss in lost} | done)


def _service(seen: View, observed: Observed) -> tuple[Manifest, ...]:
    wanted = pods.build_service(seen.job)
    return (wanted,) if is_outdated(wanted, observed.services) else ()


def _is_over(seen: View) -> bool:
    return _ending(seen) is not None


def _ending(seen: View) -> Manifest | None:
    """Return the condition that says how the job ended; None while it has not."""
    recorded = seen.recorded.get("conditions", [])
    said = (conditions.find(recorded, kind) for kind in ("Complete", "Failed"))
    return next((one for one in said if one is not None and one["status"] == "True"), None)


def _refuse(resource: Manifest, message: str, now: float) -> Plan:
    recorded = resource.get("status") or {}
    refusal = status.refused(recorded, resource["metadata"].get("generation", 1), message, now)
    if refusal == recorded:
        return Plan()
    return Plan(status=refusal, events=(Event("Warning", "InvalidSpec", message),))


def _write(seen: View, actions: Plan, wanted: Manifest) -> Plan:
    """Add the status to write, if any, and when to look again."""
    now, later = pacing.settle(seen, wanted)
    return replace(
        actions,
        status=now,
        events=events(seen.recorded, wanted) if now is not None else (),
        look_again=_soonest(actions.look_again, later),
    )


def _soonest(*moments: float | None) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)
