"""Whose word on the group counts, who is asked for it, and which half of a torn group may go on.

Rank 0's agent hosts the coordinator. Where an elastic group has lost it, the first of the others does until rank 0
answers again: so while that one is missed, all are asked. Half of a round's members go on only with the word that they
ask for, and of one round only one part is given it: nobody can know from here what a silent one has made of it. To
whom is in the status before it is given, so that another operator knows, and one that was cut off gives none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Target
from muster.plan.training.elastic import regroups
from muster.plan.training.pods import AGENT_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.api import TrainingJob
    from muster.plan.model import WorkerReport
    from muster.plan.training.members import Member
    from muster.plan.training.view import View


def leader(
    job: TrainingJob, workers: Mapping[int, Member | None], reports: Mapping[str, WorkerReport]
) -> Member | None:
    """Return the worker whose agent speaks for the group; rank 0's if none of them is known to.

    Of two, the one whose group has come further: rank 0 may be back without having heard of the others.
    """
    answering = [m for m in workers.values() if m is not None and not m.ended and _answers(reports.get(m.uid))]
    speaking = [(_attempt(reports[m.uid]), -m.rank, m) for m in answering if _coordinates(reports[m.uid])]
    if not regroups(job) or not speaking:
        return workers.get(0)
    return max(speaking)[-1]


def targets(view: View, *, trains: bool) -> tuple[Target, ...]:
    """Return whom to ask. Once all workers run, that they train is waited for; before, a start has no news."""
    there = all(member is not None and (member.running or member.ended) for member in view.workers.values())
    if not there and not regroups(view.job) and view.recorded.get("phase") == "Starting":
        return ()
    asked = view.workers.values() if _is_missed(view) else [view.workers.get(0)]
    return tuple(
        _target(view, member, member.address, eager=there and not trains)
        for member in asked
        if member is not None and member.address is not None and member.running
    )


def _target(view: View, member: Member, address: str, *, eager: bool) -> Target:
    elastic = regroups(view.job)
    there = {one.name for one in view.members}
    gone = sorted(one["pod"] for one in view.group.get("members", []) if one["pod"] not in there)
    asked = _asks_for(view.reports.get(member.uid))
    given = asked is not None and view.recorded.get("entrusted") == _entry(member, asked)
    word = asked if given else None
    return Target(member.uid, address, AGENT_PORT, eager, elastic, word, tuple(gone) if elastic else ())


def entrusted(view: View) -> dict[str, str] | None:
    """Return what the status says of the last word: for which round it is, and to which pod's coordinator.

    Of several that ask, it is the one that has come furthest, and then rank 0's.
    """
    asking = [
        (_attempt(report), -member.rank, _entry(member, word))
        for member in view.workers.values()
        if member is not None
        and (report := view.reports.get(member.uid)) is not None
        and (word := _asks_for(report)) is not None
        and _attempt(report) >= view.recorded_attempt
        and _is_free(view, member, word)
    ]
    if asking:
        return max(asking)[-1]
    return view.recorded.get("entrusted") if _holder(view) is not None else None


def _entry(member: Member, word: str) -> dict[str, str]:
    return {"round": word.rpartition("/")[0], "pod": member.name}


def _is_free(view: View, member: Member, word: str) -> bool:
    """Nobody else has the word for the same round."""
    return _holder(view) in (None, member) or view.recorded["entrusted"]["round"] != _entry(member, word)["round"]


def _holder(view: View) -> Member | None:
    """Return who was given the last word and may make use of it: its pod may run, and has not joined others since."""
    pod = view.recorded.get("entrusted", {}).get("pod")
    there = (member for member in view.members if member.name == pod and not member.ended)
    return next((member for member in there if not _has_joined(view.reports.get(member.uid))), None)


def _has_joined(report: WorkerReport | None) -> bool:
    return report is not None and _answers(report) and not _coordinates(report)


def _asks_for(report: WorkerReport | None) -> str | None:
    return report.state.get("asksFor") if report is not None and report.state and _answers(report) else None


def _is_missed(view: View) -> bool:
    """Whether a group that trained has lost rank 0, as far as can be seen from here."""
    if not regroups(view.job) or view.recorded.get("phase") not in {"Running", "Restarting"}:
        return False
    first = view.workers.get(0)
    if first is None or not first.running or view.leader is not first:
        return True
    report = view.reports.get(first.uid)
    return report is not None and (report.silent_since is not None or _attempt(report) < view.recorded_attempt)


def _answers(report: WorkerReport | None) -> bool:
    return report is not None and report.silent_since is None and report.state is not None


def _coordinates(report: WorkerReport) -> bool:
    return bool((report.state or {}).get("coordinates"))


def _attempt(report: WorkerReport) -> int:
    return int((report.state or {}).get("attempt") or 0)
