"""Gang admission: a job gets all of its pods or none.

A waiting job has no pods at all. What it asks for stands in line with what all others ask for, and `plan.queue`
says whose turn it is. Where the spec leaves this to somebody else, nobody waits here but for what is missing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from muster.plan.conditions import find
from muster.plan.model import Admission, Demand
from muster.plan.timestamps import to_epoch
from muster.plan.training import kueue, pod_groups, servers
from muster.plan.training.references import references

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from muster.api import TrainingJob
    from muster.plan.model import Manifest
    from muster.plan.training.members import Member
    from muster.plan.training.view import View


TAKEN_BACK = "TakenBack"


def demand(view: View, gang: Iterable[Manifest]) -> Demand:
    """Return what the job asks for, to start these pods."""
    job = view.job
    created = job.metadata.creation_timestamp
    return Demand(
        name=f"{job.metadata.namespace}/{job.metadata.name}",
        pods=tuple(pod["spec"] for pod in gang),
        least=servers.fewest(job),
        since=to_epoch(created) if created else view.now,
        priority_class=job.spec.scheduling.priority_class_name,
        references=references(job),
        topology_key=job.spec.scheduling.topology_key or None,
        uncounted=_left_to_others(job),
    )


def is_counted(job: TrainingJob) -> bool:
    """Whether Muster itself looks for room for the whole gang."""
    return _left_to_others(job) is None


def _left_to_others(job: TrainingJob) -> Admission | None:
    gang = job.spec.scheduling.gang
    if kueue.is_asked(job):
        return Admission(granted=True, reason="LeftToKueue", message="spec.scheduling.queueName: Kueue admits it")
    if gang == "auto":
        return None
    if gang == "none":
        message = "spec.scheduling.gang is none: pods start as they are placed"
        return Admission(granted=True, reason="NotGanged", message=message)
    message = f"spec.scheduling.gang is {gang}: {pod_groups.scheduler(job)} places all workers together or none"
    return Admission(granted=True, reason="LeftToScheduler", message=message)


def after(leaving: Sequence[Member]) -> Admission:
    """Workers of an earlier attempt still hold their ranks."""
    names = ", ".join(member.name for member in leaving)
    return Admission(granted=False, reason="WorkersLeaving", message=f"still on their way out: {names}")


def stopping(view: View, answer: Admission) -> Admission:
    """The answer, and who is on their way out because of it."""
    leaving = [member.name for member in view.members if not member.ended]
    if not leaving:
        return answer
    return replace(answer, message=f"{answer.message}; still on their way out: {', '.join(leaving)}")


def begun(there: Iterable[Member]) -> Admission:
    """Some of its pods are there already: the operator that admitted it was lost before it could say so."""
    message = "admitted before; the gang is being completed"
    domain = next((member.domain for member in there if member.domain), None)
    return Admission(granted=True, reason="Admitted", message=message, domain=domain)


def refused(message: str) -> Admission:
    """The API server took its pods not, or not all of them."""
    return Admission(granted=False, reason="PodsRefused", message=f"its pods are refused: {message}")


def taken_back(stuck: Member, pause: float) -> Admission:
    """Somebody else was faster: there was room, and there is no more. `pause`: seconds until the next try."""
    why = stuck.message or "no node takes it"
    again = f"; the next try is after {pause:.0f} s" if pause else ""
    message = f"all workers were taken back, since {stuck.name} found no place: {why}{again}"
    return Admission(granted=False, reason=TAKEN_BACK, message=message)


def still_taken_back(view: View) -> Admission:
    """Until the next try, in the words that are recorded."""
    said = find(view.recorded.get("conditions", []), "Admitted")
    return Admission(granted=False, reason=TAKEN_BACK, message=said["message"] if said else "")
