"""How far a rollout is, and when it has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.conditions import find
from muster.plan.serving import canary, counts, rollout
from muster.plan.timestamps import to_epoch, to_timestamp

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from muster.plan.serving.groups import Server, Worker
    from muster.plan.serving.rollout import Slot
    from muster.plan.serving.view import View

PERMANENT_EXIT_CODE = 2
"""With which a worker says that another try would fail alike: a model that is not as it should be, most of all."""
TRIES = 3
"""How often the process of a group may end before its revision, still being rolled out, is given up."""


def updated(view: View, slots: Sequence[Slot]) -> int:
    """Return how many groups answer with the target revision."""
    return sum(any(one.answers and _is_of_target(view, one) for one in slot.good) for slot in slots)


def is_whole(view: View, slots: Sequence[Slot]) -> bool:
    """Whether every group answers with the target revision, and nobody with another."""
    return bool(slots) and all(slot.is_done for slot in slots) and is_latest(view, slots)


def is_latest(view: View, slots: Sequence[Slot], made: Collection[int] = ()) -> bool:
    """Whether every group has a pod, and all pods that are to stay have the target revision.

    `made`: the groups that are being made, of what they are to have.
    """
    staying = (one for one in view.servers if not one.cut_off and not view.is_over(one))
    there = all(slot.servers or (slot.group in made and _is_target(view, slot.wanted.name)) for slot in slots)
    return there and all(_is_of_target(view, one) for one in staying)


def failure(view: View, slots: Sequence[Slot]) -> str | None:
    """Return why what the spec asks for is given up; None while there is hope, or nothing is rolled out."""
    if not _is_under_way(view, slots):
        return None
    of_target = [one for slot in slots for one in slot.good if _is_of_target(view, one)]
    dying = next((one for one in of_target if view.deaths_while_serving(one) >= TRIES), None)
    if dying is not None:
        return f"a process of {dying.name} has died {view.deaths_while_serving(dying)} times while it served"
    new = [one for one in of_target if not one.answers]
    broken = next((pod for one in new for pod in one.pods if _is_broken(pod)), None)
    if broken is not None:
        return f"{broken.name} does not serve it: {broken.last_words}"
    if (broken_limit := canary.failure(view)) is not None:
        return broken_limit
    if seconds_left(view, slots) == 0:
        limit = view.deployment.spec.rollout.progress_deadline_seconds
        troubled = next((pod for one in new if (pod := one.troubled) is not None), None)
        trouble = f"; {troubled.name}: {troubled.message or troubled.reason}" if troubled is not None else ""
        return f"no further group became ready within {limit} s (spec.rollout.progressDeadlineSeconds){trouble}"
    return None


def seconds_left(view: View, slots: Sequence[Slot]) -> float | None:
    """Return after how many seconds a rollout has failed; None while none is under way, or a pod waits for its place.

    That is no fault of the revision's, and nothing has been taken down for it.
    """
    recorded = view.recorded.get("rollout")
    if recorded is None or not _is_under_way(view, slots):
        return None
    new = [one for slot in slots for one in slot.good if not one.answers]
    due = [at for one in new if (at := one.due_since) is not None]
    if not new or len(due) < len(new):  # a pod that was just made may not have been looked at by a scheduler
        return None
    progressed = view.now if _was_held(view) else to_epoch(recorded.get("progressedAt") or recorded["startedAt"])
    since = max(progressed, *due)
    return max(0.0, since + view.deployment.spec.rollout.progress_deadline_seconds - view.now)


def record(view: View, slots: Sequence[Slot]) -> dict[str, Any] | None:
    """Return the status of the last rollout; None before the first."""
    before = view.recorded.get("rollout")
    target = (view.recorded.get("revision") or {}).get("target")
    if view.target is None:
        return before
    done = updated(view, slots)
    if before is None or target != view.target.name:
        now = to_timestamp(view.now)
        before = {"startedAt": now, "progressedAt": now, **counts.begun(view)}
    progressed = done > before.get("updated", 0) or (_is_under_way(view, slots) and _was_held(view))
    said = {
        "startedAt": before["startedAt"],
        "progressedAt": to_timestamp(view.now) if progressed and "finishedAt" not in before else before["progressedAt"],
        **canary.record(view, done),
        "updated": done,
        "step": f"{done}/{len(slots)} groups",
    }
    if "finishedAt" in before:
        return (
            said | {name: before[name] for name in ("finishedAt", "seconds") if name in before} | counts.ended(before)
        )
    answered = counts.gone_on(view, before)
    if not _is_complete(view, slots):
        return said | answered
    seconds = view.now - to_epoch(before["startedAt"])
    return said | {"finishedAt": to_timestamp(view.now), "seconds": f"{seconds:.1f}"} | counts.ended(answered)


def _is_under_way(view: View, slots: Sequence[Slot]) -> bool:
    return bool(slots) and view.is_rolling and not (view.failed or rollout.is_held(view) or _is_complete(view, slots))


def _was_held(view: View) -> bool:
    """Whether nothing was to get on until now, as the status has it: it was paused, suspended or without a gateway.

    Behind a partition it is as far as it is to get, and goes on to be.
    """
    said = find(view.recorded.get("conditions", []), "Progressing")
    return said is not None and said["status"] == "False" and said["reason"] != "Partitioned"


def _is_complete(view: View, slots: Sequence[Slot]) -> bool:
    return bool(slots) and updated(view, slots) == len(slots) and all(slot.is_done for slot in slots)


def _is_of_target(view: View, server: Server) -> bool:
    return _is_target(view, server.revision)


def _is_target(view: View, revision: str) -> bool:
    return view.target is not None and revision == view.target.name


def _is_broken(pod: Worker) -> bool:
    if pod.died_of.get("exitCode") == PERMANENT_EXIT_CODE or pod.exit_code == PERMANENT_EXIT_CODE:
        return True
    return pod.restarts + (pod.reason == "CrashLoopBackOff") >= TRIES
