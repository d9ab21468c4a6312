"""How the last half minute was: rate, errors, latencies. What the operator asks for, and judges a rollout by.

And how many there were since the beginning, which the operator tells of a rollout.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

WINDOW = 30
"""Whole seconds that are looked back; the one that is under way is left out."""

_SHORTEST = 50e-6
_STEP = math.log(1.1)
"""Latencies are counted in steps of a tenth, which is how exact a percentile is."""


@dataclass(slots=True)
class _Second:
    begun: int
    failed: int = 0
    latencies: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Summary:
    """Latencies in seconds, of requests that did not fail; None where there was none. `error_rate`: from 0 to 1."""

    requests_per_second: float
    error_rate: float
    latency_p50: float | None
    latency_p99: float | None


class Recent:
    def __init__(self, now: float) -> None:
        """`now`, here and below: seconds of one clock that does not run backwards."""
        self.requests = self.failed = 0
        self._begun = int(now)
        self._seconds: deque[_Second] = deque()

    def note(self, now: float, seconds: float, *, failed: bool) -> None:
        """One request that was answered after so many seconds."""
        second = int(now)
        self.requests += 1
        self.failed += failed
        if not self._seconds or self._seconds[-1].begun != second:
            self._forget(second)
            self._seconds.append(_Second(second))
        if failed:
            self._seconds[-1].failed += 1
        else:
            self._seconds[-1].latencies[_bucket(seconds)] += 1

    def summary(self, now: float) -> Summary:
        """Of the whole seconds before this one, 30 of them at most."""
        second = int(now)
        self._forget(second)
        past = [one for one in self._seconds if one.begun < second]
        latencies: Counter[int] = sum((one.latencies for one in past), Counter())
        failed = sum(one.failed for one in past)
        total = latencies.total() + failed
        return Summary(
            total / max(1, min(WINDOW, second - self._begun)),
            failed / total if total else 0.0,
            _percentile(latencies, 0.50),
            _percentile(latencies, 0.99),
        )

    def _forget(self, second: int) -> None:
        while self._seconds and self._seconds[0].begun < second - WINDOW:
            self._seconds.popleft()


def _bucket(seconds: float) -> int:
    return max(0, math.ceil(math.log(max(seconds, _SHORTEST) / _SHORTEST) / _STEP))


def _percentile(latencies: Counter[int], part: float) -> float | None:
    """The upper end of the bucket in which it lies."""
    left = math.ceil(latencies.total() * part)
    for bucket in sorted(latencies):
        left -= latencies[bucket]
        if left <= 0:
            return _SHORTEST * math.exp(bucket * _STEP)
    return None
