"""What a person reads in `kubectl describe`: one event for every change of phase that is worth a line.

And one for every worker that has become slow.

That pods start is told by the events of those: a job that starts at once has one event, when it trains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.model import Event

if TYPE_CHECKING:
    from muster.plan.model import Manifest

WARNINGS = {"Restarting", "Failed"}


def events(recorded: Manifest, status: Manifest) -> tuple[Event, ...]:
    """Return the events of going from one status to the other."""
    return (*_of_phase(recorded, status), *_of_stragglers(recorded, status))


def _of_phase(recorded: Manifest, status: Manifest) -> tuple[Event, ...]:
    changed = recorded.get("phase") != status["phase"]
    another_restart = recorded.get("attempt", 0) < status["attempt"] and status["phase"] == "Restarting"
    if (not changed or status["phase"] == "Starting") and not another_restart:
        return ()
    message = f"{status['message']} ({status['reason']})"
    return (Event("Warning" if status["phase"] in WARNINGS else "Normal", status["phase"], message),)


def _of_stragglers(recorded: Manifest, status: Manifest) -> tuple[Event, ...]:
    before = {one["pod"] for one in recorded.get("stragglers") or ()}
    new = (one for one in status.get("stragglers") or () if one["pod"] not in before)
    return tuple(
        Event("Warning", "Straggler", f"{one['pod']} takes {one['slowdown']} times as long as others, who wait for it")
        for one in new
    )
