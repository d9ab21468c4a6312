"""Whose word on the group counts, and who is asked for it.

Rank 0's agent hosts the coordinator. Where an elastic group has lost it, the first of the others does until rank 0
answers again: so once that one is missed, all are asked. With the question an agent hears that it is entrusted with the
group, which lets half of a torn group go on. That word holds for `SILENCE` there: nobody else gets it before then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Target
from muster.plan.training.pods import AGENT_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.api import TrainingJob
    from muster.plan.model import WorkerReport
    from muster.plan.training.members import Member
    from muster.plan.training.view import View

SILENCE = 3.0
"""Seconds, as the agents have it: so long after its last question an agent counts itself as entrusted."""


def leader(
    job: TrainingJob, workers: Mapping[int, Member | None], reports: Mapping[str, WorkerReport]
) -> Member | None:
    """Return the worker whose agent speaks for the group; rank 0's if none of them is known to.

    Of two, the one whose group has come further: rank 0 may be back without having heard of the others.
    """
    answering = [m for m in workers.values() if m is not None and not m.ended and _answers(reports.get(m.uid))]
    speaking = [(_attempt(reports[m.uid]), -m.rank, m) for m in answering if _coordinates(reports[m.uid])]
    if job.spec.elastic is None or not speaking:
        return workers.get(0)
    return max(speaking)[-1]


def targets(view: View, *, trains: bool) -> tuple[Target, ...]:
    """Return whom to ask. Once all workers run, that they train is waited for; before, a start has no news."""
    there = all(member is not None and (member.running or member.ended) for member in view.workers.values())
    if not there and view.job.spec.elastic is None and view.recorded.get("phase") == "Starting":
        return ()
    asked = view.workers.values() if _is_missed(view) else [view.workers.get(0)]
    return tuple(
        _target(view, member, member.address, eager=there and not trains)
        for member in asked
        if member is not None and member.address is not None and member.running
    )


def seconds_left(view: View) -> float | None:
    """Return after how many seconds somebody else is to be asked, or to be entrusted; None when there is nobody."""
    if view.job.spec.elastic is None:
        return None
    since = _silent_since(view)
    moments = [_words_end(view, _to_entrust(view)), since + SILENCE if since is not None else view.now]
    return min((moment - view.now for moment in moments if moment > view.now), default=None)


def _target(view: View, member: Member, address: str, *, eager: bool) -> Target:
    chosen = _to_entrust(view)
    entrusted = member.uid in chosen and _words_end(view, chosen) <= view.now
    there = {one.name for one in view.members}
    gone = sorted(one["pod"] for one in view.group.get("members", []) if one["pod"] not in there)
    return Target(member.uid, address, AGENT_PORT, eager, entrusted, tuple(gone) if entrusted else ())


def _to_entrust(view: View) -> set[str]:
    """Return the UIDs of who leads, or of whoever may come to lead: without rank 0, at most one half is left.

    Rank 0 is not before there was an answer: another operator may have entrusted somebody else just now.
    """
    if view.job.spec.elastic is None:
        return set()
    if view.leader is not None and _answers(view.reports.get(view.leader.uid)):
        led = _attempt(view.reports[view.leader.uid]) >= view.recorded_attempt
        return {view.leader.uid} if led else set()
    if not _is_missed(view):
        return set()
    others = [member for member in view.workers.values() if member is not None and member.rank != 0]
    return {m.uid for m in others if m.uid not in view.reports or _answers(view.reports[m.uid])}


def _words_end(view: View, but: set[str]) -> float:
    """Return when nobody but these counts itself as entrusted any more."""
    words = [one.entrusted_at for uid, one in view.reports.items() if uid not in but and one.entrusted_at is not None]
    return max(words, default=float("-inf")) + SILENCE


def _is_missed(view: View) -> bool:
    """Whether a group that trained has lost rank 0, as far as can be seen from here."""
    if view.job.spec.elastic is None or view.recorded.get("phase") not in {"Running", "Restarting"}:
        return False
    first, since = view.workers.get(0), _silent_since(view)
    if first is None or not first.running or view.leader is not first:
        return True
    if since is not None:
        return view.now - since >= SILENCE
    report = view.reports.get(first.uid)
    return report is not None and _attempt(report) < view.recorded_attempt


def _silent_since(view: View) -> float | None:
    first = view.workers.get(0)
    report = view.reports.get(first.uid) if first is not None else None
    return report.silent_since if report is not None else None


def _answers(report: WorkerReport | None) -> bool:
    return report is not None and report.silent_since is None and report.state is not None


def _coordinates(report: WorkerReport) -> bool:
    return bool((report.state or {}).get("coordinates"))


def _attempt(report: WorkerReport) -> int:
    return int((report.state or {}).get("attempt") or 0)
