"""Which groups were lost, why, and how long it took until they answered again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.plan import backoff
from muster.plan.pods import FAILED, KNOWN_REASONS
from muster.plan.serving import placement
from muster.plan.timestamps import to_epoch, to_precise_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from muster.plan.serving.groups import Server, Worker
    from muster.plan.serving.rollout import Slot
    from muster.plan.serving.view import View

KEPT = 10
"""Losses that are told of after they are made good, and what is left of them has gone."""

PROCESS_DIED = "ProcessDied"


@dataclass(frozen=True, slots=True)
class Loss:
    """One group of which a pod, or a process in one, is gone. `server` is None when no object of it is left at all.

    `pod` is what the pod is called, `node` where it was. `died_at`: when the process died that was started again in its
    pod; `down_for`: seconds until the group answered again, as far as that is known.
    """

    group: int
    cause: str
    message: str
    server: Server | None = None
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    died_at: float | None = None
    down_for: float | None = None


def losses(view: View, slots: Sequence[Slot]) -> tuple[Loss, ...]:
    """Return those that the status does not know of."""
    known = view.made_replicas
    found = (loss for slot in slots if slot.group < known for loss in _losses(view, slot))
    return tuple(loss for loss in found if not _is_recorded(view, loss))


def record(view: View, slots: Sequence[Slot], lost: Sequence[Loss]) -> list[Mapping[str, Any]]:
    """Return the status of the last losses, and how long those took that are made good now."""
    by_group = {slot.group: slot for slot in slots}
    entries = [dict(entry) for entry in view.recorded.get("failovers", [])]
    for entry in entries:
        if "replacedSeconds" not in entry and _answers_again(by_group.get(entry["group"]), entry):
            entry["replacedSeconds"] = f"{view.now - to_epoch(entry['at']):.1f}"
    entries += [_entry(view, loss) for loss in lost]
    held, past = _held(view, entries)
    return sorted((*held, *past[-KEPT:]), key=lambda entry: str(entry["at"]))


def pauses(view: View, lost: Sequence[Loss]) -> dict[int, float]:
    """Return of which groups no server is made yet, and for how many seconds: see `backoff`."""
    in_a_row = {group: (_times(one), to_epoch(one["at"])) for group, one in _newest(view).items()}
    in_a_row |= {loss.group: (_in_a_row(view, loss), view.now) for loss in lost if loss.died_at is None}
    left = {
        group: (at + backoff.pause(times) - view.now, backoff.pause(times)) for group, (times, at) in in_a_row.items()
    }
    # What is in the future was noticed before the clock was set back.
    return {group: seconds for group, (seconds, whole) in left.items() if 0 < seconds <= whole}


def repeated(view: View) -> str | None:
    """Return the sentence that says how the last of several in a row ended; None where there are not any."""
    entries = [one for one in _newest(view).values() if _times(one) > 1 and _times_now(view, one) > 1]
    last = max(entries, key=lambda one: (_times(one), str(one["at"])), default=None)
    if last is None:
        return None
    return f"{_times(last)} of a group have ended soon after one another, the last of them: {last['message']}"


def _newest(view: View) -> dict[int, Mapping[str, Any]]:
    """Return of each group the last loss that the status tells of; processes that were started again are none."""
    entries = sorted(view.recorded.get("failovers", []), key=lambda one: str(one["at"]))
    return {one["group"]: one for one in entries if "restarted" not in one}


def _in_a_row(view: View, loss: Loss) -> int:
    """Return how many of the group have ended by themselves soon after one another, with this one."""
    before = _newest(view).get(loss.group)
    by_itself = loss.server is not None and any(pod.ended for pod in loss.server.pods)
    return _times_now(view, before) if before is not None and by_itself else 1


def _times_now(view: View, before: Mapping[str, Any]) -> int:
    return backoff.in_a_row(_times(before), to_epoch(before["at"]), view.now)


def _times(entry: Mapping[str, Any]) -> int:
    return int(entry.get("inARow", 1))


def is_open(view: View, lost: Sequence[Loss], group: int) -> bool:
    """Whether this group was lost and has not answered since."""
    entries = view.recorded.get("failovers", [])
    known = any(entry["group"] == group and "replacedSeconds" not in entry for entry in entries)
    return known or any(loss.group == group for loss in lost)


def newest(view: View) -> float:
    """Return when the last group was lost that has no successor yet, as the status has it; 0.0 where none was."""
    entries = view.recorded.get("failovers", [])
    open_ones = (one for one in entries if "replacedSeconds" not in one and "restarted" not in one)
    return max((to_epoch(entry["at"]) for entry in open_ones), default=0.0)


def is_recorded(view: View, server: Server) -> bool:
    """Whether the status tells that pods of this one were lost."""
    entries = view.recorded.get("failovers", [])
    return any(entry.get("pod") in server.names and "restarted" not in entry for entry in entries)


def patience(view: View) -> float | None:
    """Return the seconds until the next pod on an unreachable node is given up; None when there is none."""
    limit = view.deployment.spec.failover.node_lost_seconds
    pods = (pod for one in view.servers for pod in one.pods if not pod.ended)
    left = [pod.lost_since + limit - view.now for pod in pods if pod.lost_since is not None]
    waiting = [seconds for seconds in left if seconds > 0]
    return min(waiting) if waiting else None


def _losses(view: View, slot: Slot) -> Iterator[Loss]:
    ours = [one for one in view.servers if one.group == slot.group]
    for one in ours:
        lost = view.lost_pods(one) or tuple(pod for pod in one.pods if pod.cut_off)
        if lost:
            yield _lost(one, lost[0])
    for one in slot.servers:
        if view.current is not None and one.revision == view.current.name:
            yield from _deaths(view, one)
    newest = max(ours, key=lambda one: one.attempt, default=None)
    if newest is None and not slot.servers:
        yield Loss(slot.group, "PodDeleted", f"the pod of group {slot.group} is gone: something or somebody deleted it")
    elif newest is not None and not slot.servers and not _was_to_go(view, slot, newest):
        yield _deleted(newest)


def _was_to_go(view: View, slot: Slot, server: Server) -> bool:
    """Whether its end is told already, or was our own doing."""
    return (
        view.is_lost(server)
        or server.cut_off
        or server.revision != slot.wanted.name
        or (server.cordoned and not _evicted(server))
        or placement.is_stuck(server, view.now)
    )


def _evicted(server: Server) -> bool:
    return any(pod.evicted for pod in server.pods)


def _deleted(server: Server) -> Loss:
    """It is leaving, or a part of it has left, and nothing of ours asked for that."""
    leaving = next((pod for pod in server.pods if pod.deleting), None)
    pod, node = (leaving.name, leaving.node) if leaving is not None else (server.missing[0], None)
    cause, what = ("Evicted", "is evicted") if _evicted(server) else ("PodDeleted", "was deleted")
    return Loss(server.group, cause, f"{pod} {what}", server, pod, node)


def _lost(server: Server, pod: Worker) -> Loss:
    cause, said, code = "NodeLost", f"{pod.name} was on node {pod.node}, which is unreachable", None
    if pod.cut_off:
        cause, said = "Unreachable", f"{pod.name} on node {pod.node} does not answer"
    elif pod.ended:
        why = f": {pod.message}" if pod.message else ""
        cause, said, code = KNOWN_REASONS.get(pod.reason, FAILED), f"{pod.name} ended{why}", pod.exit_code
    return Loss(server.group, cause, said, server, pod.name, pod.node, code)


def _deaths(view: View, server: Server) -> Iterator[Loss]:
    """Return the last death of each pod's container, as the kubelet tells it, and that of a process within."""
    for pod in server.pods:
        by_kubelet = pod.died_of
        if pod.restarts and by_kubelet.get("finishedAt"):
            code, reason = int(by_kubelet["exitCode"]), str(by_kubelet.get("reason", ""))
            at = to_epoch(by_kubelet["finishedAt"])
            yield _death(server, pod, KNOWN_REASONS.get(reason, PROCESS_DIED), code, at)
    inside = (view.state(server) or {}).get("death")
    if inside and server.leader is not None:
        down_for = float(inside["seconds"]) if inside.get("seconds") is not None else None
        yield _death(server, server.leader, PROCESS_DIED, inside.get("exitCode"), float(inside["diedAt"]), down_for)


def _death(server: Server, pod: Worker, cause: str, code: int | None, at: float, down_for: float | None = None) -> Loss:
    how = f"ended with exit code {code}" if code is not None else "ended"
    whose = pod.name if server.size == 1 else f"{pod.name}, or of its group,"
    message = f"a process of {whose} {how} and was started again"
    return Loss(server.group, cause, message, server, pod.name, pod.node, code, at, down_for)


def _is_recorded(view: View, loss: Loss) -> bool:
    if loss.server is None:
        return is_open(view, (), loss.group)
    if loss.died_at is None:
        return is_recorded(view, loss.server)
    at = to_precise_timestamp(loss.died_at)
    entries = view.recorded.get("failovers", [])
    _, past = _held(view, entries)
    if len(past) >= KEPT and at <= past[0]["at"]:
        return True  # it was, once
    return any(entry.get("pod") == loss.pod and entry["at"] == at for entry in entries)


def _held(view: View, entries: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the losses that have to be remembered, so that none is told of twice, and all others, the oldest first.

    The former are each group's last, as long as it is not made good, and those of which something is there.
    """
    there = {name for one in view.servers for name in one.names}
    in_order = sorted(entries, key=lambda entry: str(entry["at"]))
    newest = {entry["group"]: entry for entry in in_order}
    held: list[Mapping[str, Any]] = []
    past: list[Mapping[str, Any]] = []
    for entry in in_order:
        is_open = "replacedSeconds" not in entry and newest[entry["group"]] is entry
        is_there = "restarted" not in entry and entry.get("pod") in there
        (held if is_open or is_there else past).append(entry)
    return held, past


def _answers_again(slot: Slot | None, entry: Mapping[str, Any]) -> bool:
    if slot is None:
        return True  # the group is not wanted any more
    if "restarted" in entry:
        return slot.answers
    return any(one.answers and entry.get("pod") not in one.names for one in slot.servers)


def _entry(view: View, loss: Loss) -> dict[str, Any]:
    entry = {
        "group": loss.group,
        "cause": loss.cause,
        "message": loss.message,
        "pod": loss.pod,
        "node": loss.node,
        "restarted": True if loss.died_at is not None else None,
        "exitCode": loss.exit_code,
        "inARow": times if loss.died_at is None and (times := _in_a_row(view, loss)) > 1 else None,
        "at": to_precise_timestamp(loss.died_at if loss.died_at is not None else view.now),
        "replacedSeconds": f"{loss.down_for:.1f}" if loss.down_for is not None else None,
    }
    return {name: value for name, value in entry.items() if value is not None}
