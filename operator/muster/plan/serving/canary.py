"""A rollout in steps: in each, so many groups have the new revision, and what clients see of them is judged.

The highest numbers come first, as with `partition`. A step lasts `pauseSeconds` from the moment that its groups answer,
and that a gateway gives them their share of the requests, where it has one; but half a minute where a shorter one did
not bring as many requests as an analysis needs.
Judged is every look of the whole rollout, by what the groups of the new revision say of their last half minute.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from muster.plan.serving import gateway
from muster.plan.timestamps import to_epoch, to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from muster.api.modeldeployment import CanaryStep
    from muster.plan.serving.view import View

WINDOW = 30.0
"""Seconds that the groups tell of."""
ENOUGH, ENOUGH_FOR_P99 = 20, 100
"""Requests, below which nothing is concluded from what became of them, and from how long they took.

Of fewer than a hundred, the slowest alone would be the 99th percentile: any group's is slow when it has just started.
"""


def step(view: View) -> int:
    """Return which step is under way, from 1; one more than there are when all groups may have the new revision."""
    if view.current is None or not view.is_rolling:
        return len(steps(view)) + 1
    return int(_recorded(view).get("canaryStep", 1))


def kept(view: View) -> int:
    """Return how many groups, those with the lowest numbers, are to keep the revision that they have."""
    under_way = step(view)
    if under_way > len(steps(view)):
        return 0
    weight = steps(view)[under_way - 1].weight
    new = math.ceil(view.replicas * weight / 100)
    if view.gateway is not None and weight < 100:  # the other requests are somebody's, too
        new = max(1, min(new, view.replicas - 1))
    return view.replicas - new


def share(view: View, updated: int) -> int:
    """Return the per cent of a gateway's requests that are the new revision's; `updated`: as for `record`."""
    if view.failed or not view.replicas:
        return 0
    under_way, planned = step(view), [0, *(one.weight for one in steps(view))]
    if under_way > len(steps(view)):
        return max(planned[-1], math.ceil(100 * updated / view.replicas))
    return planned[under_way if _is_reached(view, updated) else under_way - 1]


def record(view: View, updated: int) -> dict[str, Any]:
    """Return the step for `status.rollout`; `updated`: how many groups answer with the new revision."""
    under_way = step(view)
    if under_way > len(steps(view)):
        return {"canaryStep": under_way} if "canaryStep" in _recorded(view) else {}
    if not view.replicas:  # nobody serves: what was seen of this step is to be seen again
        return {"canaryStep": under_way}
    since = _recorded(view).get("canaryStepSince")
    if since is None and _is_reached(view, updated) and _is_given(view):
        since = to_timestamp(view.now)
    if seconds_left(view) == 0:
        return {"canaryStep": under_way + 1}
    return {"canaryStep": under_way} | ({"canaryStepSince": since} if since is not None else {})


def seconds_left(view: View) -> float | None:
    """Return after how many seconds the next step begins; None where more than time has to pass.

    Its groups do not answer, it is paused, a gateway does not do its part, or there is none.
    """
    under_way, since = step(view), _recorded(view).get("canaryStepSince")
    stays = (
        view.failed or not view.replicas or view.deployment.spec.rollout.paused or gateway.withheld(view) is not None
    )
    if under_way > len(steps(view)) or since is None or stays:
        return None
    pause = float(steps(view)[under_way - 1].pause_seconds)
    # After a whole window nothing more becomes known of a model that hardly anybody asks.
    lasts = pause if _is_known(view) else max(pause, WINDOW)
    return max(0.0, to_epoch(since) + lasts - view.now)


def failure(view: View) -> str | None:
    """Return what the new revision does not keep; None while it does, or too little is known."""
    canary = view.deployment.spec.canary
    if canary is None or canary.analysis is None or not view.is_rolling:
        return None
    limits = canary.analysis
    for name, state in _judged(view):
        errors, slowest = float(state["errorRate"]), state.get("latencyP99")
        if limits.max_error_rate is not None and errors > float(limits.max_error_rate):
            return f"{name} fails {errors:.3g} of its requests, above spec.canary.analysis.maxErrorRate"
        most = limits.max_latency_p99_milliseconds
        enough = _requests(state) >= ENOUGH_FOR_P99
        if most is not None and slowest is not None and enough and float(slowest) * 1000 > most:
            took = f"{float(slowest) * 1000:.0f} ms for one of a hundred requests"
            return f"{name} takes {took}, above spec.canary.analysis.maxLatencyP99Milliseconds"
    return None


def _is_known(view: View) -> bool:
    """Whether every group of the new revision that answers was asked often enough for what is to be judged."""
    canary = view.deployment.spec.canary
    if canary is None or canary.analysis is None:
        return True
    enough = ENOUGH if canary.analysis.max_latency_p99_milliseconds is None else ENOUGH_FOR_P99
    return all(state is not None and _requests(state) >= enough for _, state in _new(view))


def _judged(view: View) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, state) for name, state in _new(view) if state is not None and _requests(state) >= ENOUGH)


def _new(view: View) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Yield each group of the new revision that answers, and what it says of itself."""
    assert view.target is not None, "asked of rollouts alone"
    for one in view.servers:
        if one.revision == view.target.name and one.answers:
            yield one.name, view.state_now(one)


def _requests(state: Mapping[str, Any]) -> float:
    return float(state["requestsPerSecond"]) * WINDOW


def steps(view: View) -> tuple[CanaryStep, ...]:
    """Return those of the spec; none where there is no canary."""
    canary = view.deployment.spec.canary
    return canary.steps if canary is not None else ()


def _is_reached(view: View, updated: int) -> bool:
    """Whether the step's groups answer, or did: one that was lost since takes nothing from the others."""
    return "canaryStepSince" in _recorded(view) or updated >= view.replicas - kept(view)


def _is_given(view: View) -> bool:
    """Whether the step's groups get their share; more of it where nobody else answers."""
    if view.gateway is None:
        return True
    assert view.target is not None, "asked of rollouts alone"
    return view.weights.get(view.target.name, 0) >= steps(view)[step(view) - 1].weight


def _recorded(view: View) -> Mapping[str, Any]:
    """Return what is recorded of the rollout to this target."""
    target = (view.recorded.get("revision") or {}).get("target")
    same = view.target is not None and target == view.target.name
    return (view.recorded.get("rollout") or {}) if same else {}
