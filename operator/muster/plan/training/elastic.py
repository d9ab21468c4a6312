"""How the workers of an elastic job follow `spec.replicas` while it trains.

Who is taken away saves and leaves, who is added joins the group; neither is a restart. What the agents make of it is
theirs: the group goes on with whoever is there, as long as these are enough. With parameter servers the group is the
servers, whose number is fixed, and workers come and go beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.training import servers

if TYPE_CHECKING:
    from muster.api import TrainingJob
    from muster.plan.training.members import Member
    from muster.plan.training.view import View


def regroups(job: TrainingJob) -> bool:
    """Whether the agents may make up a group of some of the pods."""
    return job.spec.elastic is not None and not servers.count(job)


def surplus(view: View) -> tuple[Member, ...]:
    """Return the pods of ranks that are not wanted any more."""
    return tuple(member for member in view.members if member.rank >= view.replicas)


def added(view: View) -> tuple[int, ...]:
    """Return the ranks that get their first pod; none while one of them is still held by a pod that leaves.

    One that was to leave, and had not been told so when it was wanted again, is as good as a new one.
    """
    new = [rank for rank in view.workers if rank >= view.known_replicas]
    if any(_leaves(view, rank) for rank in new):
        return ()
    there = {member.rank for member in view.members if member.attempt > view.recorded_attempt or not member.ended}
    return tuple(rank for rank in new if rank not in there)


def growth_was_begun(view: View) -> bool:
    """Whether pods of added ranks were made before the operator was lost, and no others were."""
    begun = [member.rank for member in view.members if member.attempt > view.recorded_attempt]
    return view.admitted and bool(begun) and min(begun) >= view.known_replicas


def size_to_record(view: View) -> int:
    """Return how many workers the status is to say that there are pods for."""
    waits = any(_leaves(view, rank) for rank in range(view.known_replicas, view.replicas))
    return (view.known_replicas if view.admitted and waits else view.replicas) - view.servers


def goes_on(view: View) -> bool:
    """Whether the group trains with workers all of whom can be seen to run, even if some are missing."""
    if not regroups(view.job) or view.group.get("phase") not in {"Running", "Succeeded"}:
        return False
    running = {member.name for member in view.members if member.running}
    return {member["pod"] for member in view.group.get("members", [])} <= running


def moved_on(view: View, lost: set[str]) -> bool:
    """Whether the agents have restarted the group without these pods: then that restart has been counted."""
    if not regroups(view.job) or view.group.get("phase") not in {"Starting", "Running"}:
        return False
    attempt = int(view.group["attempt"])
    silent = any(r["attempt"] == attempt - 1 and r["cause"] == "Silent" for r in view.group.get("restarts") or [])
    return silent and attempt == view.attempt and not lost & {member["pod"] for member in view.group["members"]}


def _leaves(view: View, rank: int) -> bool:
    """A pod from before the job shrank still holds the rank."""
    member = view.workers.get(rank)
    return member is not None and member.deleting and not member.ended and member.attempt <= view.recorded_attempt
