"""Workers that find no place: the whole gang is taken back, so that no job holds a part of what another waits for.

The room was there when the job was admitted, or when a lost worker's successor was made; others schedule too.
Where somebody else admits the gang, taking it back is theirs, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.conditions import find
from muster.plan.timestamps import to_epoch
from muster.plan.training import admission, elastic, servers

if TYPE_CHECKING:
    from muster.plan.training.members import Member
    from muster.plan.training.view import View

PATIENCE, LONGEST_PATIENCE = 60.0, 600.0
"""Seconds that a worker may be without a place. Doubled each time: what looks like room here may be none."""


def seconds_left(view: View) -> float | None:
    """Return after how many seconds the gang is taken back; None when every worker has its place."""
    if not admission.is_counted(view.job) or _enough_have_places(view):
        return None
    since = [m.unplaced_since for m in view.workers.values() if m is not None and m.unplaced_since is not None]
    return max(0.0, min(since) + _patience(view) - view.now) if since else None


def _enough_have_places(view: View) -> bool:
    """The job trains with those that have, and the others join it whenever they find one."""
    if not elastic.regroups(view.job):
        return servers.go_on(view)
    placed = sum(m is not None and not m.ended and m.unplaced_since is None for m in view.workers.values())
    return placed >= servers.fewest(view.job)


def stuck(view: View) -> Member | None:
    """Return the worker that has been without a place for too long, if any."""
    if seconds_left(view) != 0:
        return None
    unplaced = [m for m in view.workers.values() if m is not None and m.unplaced_since is not None]
    return min(unplaced, key=lambda member: member.unplaced_since or 0.0)


def pause(view: View) -> float:
    """Return for how many seconds a gang that is taken back now is not tried again.

    Whether there are the devices that it claims only a try tells. Whoever comes after it has its turn meanwhile.
    """
    return _longer_each_time(view) if view.job.spec.resources.claims else 0.0


def pause_left(view: View) -> float | None:
    """Return the seconds until a gang that was taken back may be tried again; None when it may now, or was not."""
    said = find(view.recorded.get("conditions", []), "Admitted")
    if said is None or said["status"] == "True" or said["reason"] != admission.TAKEN_BACK:
        return None
    left = to_epoch(said["lastTransitionTime"]) + pause(view) - view.now
    return left if left > 0 else None


def _patience(view: View) -> float:
    """What keeps others from being admitted is tried for no longer than they wait for it."""
    return PATIENCE if view.job.spec.resources.claims else _longer_each_time(view)


def _longer_each_time(view: View) -> float:
    return float(min(LONGEST_PATIENCE, PATIENCE * 2.0 ** min(10, int(view.recorded.get("plannedAttempts", 0)))))
