"""The record of what went wrong and what it cost: `status.restarts`, the last ten.

A restart ends one attempt and begins the next, so an attempt's number names its record. The agents record
the processes that died and came back in place; this operator records the pods that were lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.plan.timestamps import to_epoch, to_timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from muster.plan.training.failures import Loss
    from muster.plan.training.view import View

KEPT = 10


def restarts(view: View, attempt: int, lost: Sequence[Loss], before: Sequence[Loss]) -> list[dict[str, Any]]:
    """Return all records known, oldest first.

    `attempt` is the one that follows the losses; `before` are those that led to the attempt that is there already.
    """
    by_attempt = {record["attempt"]: dict(record) for record in view.recorded.get("restarts", [])}
    for said in view.group.get("restarts") or []:
        known = by_attempt.get(said["attempt"])
        if known is None or known["cause"] == said["cause"]:
            by_attempt[said["attempt"]] = _in_place(view, said, known or {})
    if before:
        by_attempt[view.attempt - 1] = _of_loss(view, view.attempt - 1, before)
    if lost:
        together = before if attempt == view.attempt else ()
        # What the agents of an elastic job measured stays: they have gone on, and know less only of the cause.
        measured = _what_it_cost(by_attempt.get(attempt - 1, {}))
        by_attempt[attempt - 1] = _of_loss(view, attempt - 1, (*together, *lost)) | measured
    for record in by_attempt.values():
        _measure(record, view)
    return [by_attempt[number] for number in sorted(by_attempt)][-KEPT:]


def _what_it_cost(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("at", "stepsLost", "recoverySeconds") if name in record}


def _in_place(view: View, said: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Whoever took rank 0's place does not know how far the group was: then it is what was last heard from rank 0."""
    member = view.workers.get(said.get("rank", -1))
    record = {
        "attempt": said["attempt"],
        "cause": said["cause"],
        "message": said.get("message"),
        "rank": said.get("rank"),
        "pod": said.get("pod"),
        "node": member.node if member and member.name == said.get("pod") else None,
        "exitCode": said.get("exitCode"),
        "at": to_timestamp(said["at"]),
        "step": known.get("step", view.recorded.get("progress", {}).get("step")),
        "stepsLost": said["stepsLost"] if said.get("stepsLost") is not None else known.get("stepsLost"),
        "recoverySeconds": _seconds(said.get("recoverySeconds")),
    }
    return {name: value for name, value in record.items() if value is not None}


def _of_loss(view: View, attempt: int, lost: Sequence[Loss]) -> dict[str, Any]:
    """One record for all that was lost together: the first loss names it, its message names the others."""
    first = lost[0]
    others = ", ".join(str(loss.rank) for loss in lost[1:])
    record = {
        "attempt": attempt,
        "cause": first.cause,
        "message": first.message + (f"; lost with it: rank {others}" if others else ""),
        "rank": first.rank,
        "pod": first.member.name if first.member else None,
        "node": first.member.node if first.member else None,
        "exitCode": first.member.exit_code if first.member else None,
        "at": to_timestamp(view.now),
        "step": view.recorded.get("progress", {}).get("step"),
    }
    if view.servers and all(loss.rank >= view.servers for loss in lost):
        record |= {"recoverySeconds": _seconds(0), "stepsLost": 0}  # the servers and the other workers go on
    return {name: value for name, value in record.items() if value is not None}


def _measure(record: dict[str, Any], view: View) -> None:
    """Fill in what a loss cost, once the group has made a step in an attempt after it."""
    progress = view.group.get("progress") or {}
    first_step_at, resumed = progress.get("firstStepAt"), progress.get("resumedFromStep")
    if first_step_at is None or view.known_attempt <= record["attempt"] or first_step_at < to_epoch(record["at"]):
        return
    if "recoverySeconds" in record and view.known_attempt > record["attempt"] + 1:
        return  # the steps since then tell nothing of what was lost there
    record.setdefault("recoverySeconds", _seconds(first_step_at - to_epoch(record["at"])))
    if "step" in record and resumed is not None:
        record.setdefault("stepsLost", max(0, record["step"] - resumed))


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"
