"""Which workers are lost, why, and whether the job may go on without them being the end of it.

Recovery in place comes first: a dead process is restarted by its pod's own agent and shows here only in the
number of attempts. A worker is lost when its pod is: then that pod alone is replaced, and the agents of the
others let the new one in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.plan.pods import FAILED, KNOWN_REASONS
from muster.plan.training import attempts, preflight

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.training.members import Member
    from muster.plan.training.view import View


@dataclass(frozen=True, slots=True)
class Loss:
    """One rank whose pod is gone or useless. `member` is None when not even its object is left."""

    rank: int
    cause: str
    message: str
    member: Member | None = None
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the job ends here and now."""

    reason: str
    message: str


def losses(view: View) -> tuple[Loss, ...]:
    """Return the ranks that need another pod, and may have one, in order of rank."""
    ours = ((rank, member) for rank, member in view.workers.items() if rank < view.known_replicas)
    found = (_loss(view, rank, member) for rank, member in ours if not _is_held(view, member))
    return tuple(loss for loss in found if loss is not None)


def _is_held(view: View, member: Member | None) -> bool:
    """Whether an earlier pod of the rank is there, back with its node, and has not ended yet."""
    earlier = view.before(member) if member is not None else None
    return earlier is not None and not earlier.ended and earlier.unreachable_since is None


def losses_before(view: View) -> tuple[Loss, ...]:
    """Return what made pods necessary of which the status does not know: the operator was lost in between.

    What they replace is still there to tell, because nothing is removed before it is recorded.
    """
    if not view.admitted:
        return ()
    begun = (member for member in view.workers.values() if member and member.attempt > view.recorded_attempt)
    found = (_loss(view, m.rank, view.before(m)) for m in begun if m.rank < view.known_replicas)
    return tuple(loss for loss in found if loss is not None)


def patience(view: View) -> float | None:
    """Return the seconds until the next pod on an unreachable node is given up; None when there is none."""
    limit = view.job.spec.failure_policy.node_lost_seconds
    cut_off = (m.lost_since for m in view.workers.values() if m and not m.ended)
    left = [since + limit - view.now for since in cut_off if since is not None]
    return max(0.0, min(left)) if left else None


def verdict(view: View, lost: Iterable[Loss]) -> Verdict | None:
    """Return why the job has failed for good; None while it may go on."""
    return _permanent(lost) or _budget(view, tuple(lost))


def _loss(view: View, rank: int, member: Member | None) -> Loss | None:
    if member is None:
        return Loss(rank, "PodDeleted", f"the pod of rank {rank} is gone: something or somebody deleted it")
    if member.succeeded:
        return None
    if member.failed:
        return _ended(view, member)
    if member.lost_since is not None and _given_up(view, member.lost_since):
        return Loss(rank, "NodeLost", f"{member.name} was on node {member.node}, which is unreachable", member)
    fault = preflight.fault(view, member)
    return Loss(rank, preflight.CAUSE, fault, member) if fault is not None else None


def _given_up(view: View, since: float) -> bool:
    return view.now - since >= view.job.spec.failure_policy.node_lost_seconds


def _ended(view: View, member: Member) -> Loss:
    if member.deleting:
        return Loss(member.rank, "PodDeleted", f"{member.name} was deleted", member)
    error = member.last_words.get("error") or member.message
    ending = (
        f"{member.name} ended with exit code {member.exit_code}"
        if member.exit_code is not None
        else f"{member.name} failed"
    )
    message = f"{ending}: {error}" if error else ending
    permanent = member.exit_code in view.job.spec.failure_policy.permanent_exit_codes
    return Loss(member.rank, KNOWN_REASONS.get(member.reason, FAILED), message, member, permanent)


def _permanent(lost: Iterable[Loss]) -> Verdict | None:
    loss = next((loss for loss in lost if loss.permanent), None)
    if loss is None:
        return None
    return Verdict(
        "PermanentExitCode",
        f"{loss.message} (this exit code is not retried: spec.failurePolicy.permanentExitCodes)",
    )


def _budget(view: View, lost: tuple[Loss, ...]) -> Verdict | None:
    """It does not matter who restarts: the agents inside of their pods, or this operator by another pod."""
    limit = view.job.spec.failure_policy.max_restarts
    attempt = attempts.after(view, lost) if lost else view.attempt
    if attempts.restarts(view, attempt) <= limit:
        return None
    cause = lost[0].message if lost else _last_restart(view)
    return Verdict(
        "RestartBudgetExhausted",
        f"more than spec.failurePolicy.maxRestarts = {limit} restarts; the last: {cause}",
    )


def _last_restart(view: View) -> str:
    restarts = view.group.get("restarts") or [{}]
    return str(restarts[-1].get("message") or "unknown")
