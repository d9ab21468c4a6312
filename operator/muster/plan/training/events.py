"""What a person reads in `kubectl describe`: one event for every change of phase that is worth a line.

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
    changed = recorded.get("phase") != status["phase"]
    another_restart = recorded.get("attempt", 0) < status["attempt"] and status["phase"] == "Restarting"
    if (not changed or status["phase"] == "Starting") and not another_restart:
        return ()
    message = f"{status['message']} ({status['reason']})"
    return (Event("Warning" if status["phase"] in WARNINGS else "Normal", status["phase"], message),)
