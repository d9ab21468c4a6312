"""Which attempt is under way, which comes next, and how many of them were restarts.

An attempt is one try of the group. Every restart begins another, and so does what is done on purpose: workers that
are added, a gang that is admitted again. Pods bear its number in their names, so that none is ever made twice; the
status knows how many attempts were no restarts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.training import elastic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.training.failures import Loss
    from muster.plan.training.view import View


def gang_was_begun(view: View) -> bool:
    """Whether some pods of a gang were made before the operator was lost, and the status does not know of them."""
    return any(member.attempt > view.recorded_attempt for member in view.members)


def of_gang(view: View) -> int:
    """Return the attempt that the pods of a job without any belong to; one that was begun is completed."""
    if gang_was_begun(view):
        return max(member.attempt for member in view.members)
    return view.attempt + 1


def after(view: View, lost: Iterable[Loss]) -> int:
    """Return the attempt that pods made for these losses belong to.

    One that was begun is completed, unless it has lost a pod itself. Where the agents of an elastic job have gone on
    without the lost pods, that was the restart, and its attempt is theirs.
    """
    lost = tuple(lost)
    if elastic.moved_on(view, {loss.member.name for loss in lost if loss.member is not None}):
        return view.attempt
    begun = view.attempt > view.known_attempt
    survived = all(loss.member is None or loss.member.attempt < view.attempt for loss in lost)
    return view.attempt if begun and survived else view.attempt + 1


def of_added(view: View) -> int:
    """Return the attempt that pods of added ranks belong to; one that was begun is completed."""
    if elastic.growth_was_begun(view):
        return max(member.attempt for member in view.members)
    return view.attempt + 1


def planned(view: View, attempt: int, *, grows: bool = False) -> int:
    """Return how many of the attempts up to this one were begun on purpose; `grows`: this one is."""
    recorded = int(view.recorded.get("plannedAttempts", 0))
    anew = not view.admitted and 0 < view.recorded_attempt < attempt
    return recorded + 1 if anew or grows or elastic.growth_was_begun(view) else recorded


def restarts(view: View, attempt: int, *, grows: bool = False) -> int:
    """Return how many restarts it took to come to this attempt."""
    return max(0, attempt - 1 - planned(view, attempt, grows=grows))
