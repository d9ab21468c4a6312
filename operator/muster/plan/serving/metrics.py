"""What clients saw in the last half minute, put together from what the groups say of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.plan.serving.view import View


def measured(view: View) -> dict[str, str]:
    """Return them as `status.metrics` has them; empty while nobody answers."""
    if any(one.answers and not view.was_asked(one) for one in view.servers):
        # What is not known yet is as it was said to be: an operator that starts has nothing new to say.
        return dict(view.recorded.get("metrics") or {})
    states = [state for one in view.servers if (state := view.state_now(one)) is not None]
    if not states:
        return {}
    rates = [float(state["requestsPerSecond"]) for state in states]
    total = sum(rates)
    failed = sum(rate * float(state["errorRate"]) for rate, state in zip(rates, states, strict=True))
    said = {"requestsPerSecond": _short(total), "errorRate": _short(failed / total if total else 0.0)}
    for name, key in (("latencyP50Milliseconds", "latencyP50"), ("latencyP99Milliseconds", "latencyP99")):
        slowest = [float(state[key]) for state in states if state.get(key) is not None]
        if slowest:
            said[name] = _short(max(slowest) * 1000)
    return said


def _short(value: float) -> str:
    """Three figures say enough, and do not change with every breath."""
    return f"{float(f'{value:.3g}'):f}".rstrip("0").rstrip(".")
