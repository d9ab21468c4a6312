"""How many requests a rollout saw, and how many of them failed: put together from what the groups say of themselves.

Each counts since its process began. What was counted of it last is in the status, so that no request counts twice and
an operator that takes over goes on from there. What a group answers after it was last asked is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.plan.serving.view import View


def begun(view: View) -> dict[str, Any]:
    """Return the counts of a rollout that begins now: what was answered before does not count."""
    told = _told(view)
    return {"requests": 0, "failedRequests": 0, "counted": told} if told else {}


def gone_on(view: View, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of one that is under way; `before`: of which the status has these."""
    known, told = before.get("counted") or {}, _told(view)
    if not told and not known:
        return {}
    there = {one.name for one in view.servers}
    counted = {server: known[server] for server in known if server in there} | told  # who is silent may tell again
    said: dict[str, Any] = {"counted": counted} if counted else {}
    for name in ("requests", "failedRequests"):
        new = sum(_since(known.get(server, {}), now, name) for server, now in told.items())
        said[name] = int(before.get(name, 0)) + new
    return said


def ended(before: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of one that is over."""
    return {name: before[name] for name in ("requests", "failedRequests") if name in before}


def _told(view: View) -> dict[str, dict[str, int]]:
    states = ((one.name, view.state(one)) for one in view.servers)
    return {
        name: {"requests": int(state["requests"]), "failedRequests": int(state["failedRequests"])}
        for name, state in states
        if state is not None and "requests" in state
    }


def _since(known: Mapping[str, int], now: Mapping[str, int], name: str) -> int:
    """A process that was started again has begun anew."""
    again = now["requests"] < known.get("requests", 0)
    return now[name] - (0 if again else known.get(name, 0))
