"""From what was measured to percentiles, goals and tables. Seconds, bytes and requests a second throughout."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BATCH = 32
DELAY = 2
"""Milliseconds that a batch may wait for more samples, at Muster and at TorchServe, to which 0 is 100."""

CONNECTIONS = (1, 16, 64)
MUSTER, MUSTER_BATCHES, MUSTER_DELAY = "Muster", "Muster, batches", f"Muster, batches, {DELAY} ms"
TORCHSERVE, TORCHSERVE_DELAY = "TorchServe", f"TorchServe, batches, {DELAY} ms"
KSERVE = "kserve"
PAIRS = ((MUSTER, TORCHSERVE), (MUSTER_DELAY, TORCHSERVE_DELAY), (MUSTER, KSERVE))
"""Who is held against whom: with the same settings."""

UNLIKE = ((MUSTER_BATCHES, TORCHSERVE), (MUSTER_BATCHES, KSERVE))
"""Without a delay Muster computes together what came together: TorchServe always waits for more, kserve's ModelServer
puts no requests together."""

FASTER = 5.0
"""So many times the requests of each peer, on the small model and over several connections."""

OF_RAW = 0.8
"""Of what torch alone computes in batches, on the medium model and over the most connections."""

_MIB = 2**20


@dataclass(frozen=True)
class Point:
    """One server under one number of connections: the medians of several loads.

    `sent` and `received`: bytes a request, with the heads. `busy`: cores that the load generator took;
    `server_busy`: the server's. `memory`: PSS of all the server's processes, after some load of which they had the
    machine for themselves.
    """

    model: str
    server: str
    connections: int
    rate: float
    p50: float
    p99: float
    sent: float
    received: float
    busy: float
    server_busy: float
    memory: int


@dataclass(frozen=True)
class Shards:
    """`muster-worker serve --data`: the medium model, on all cores."""

    count: int
    batches: bool
    rate: float
    p99: float


@dataclass(frozen=True)
class Goal:
    """What was wanted of which figures, and whether it is so."""

    what: str
    figures: str
    wanted: str
    met: bool

    @property
    def cells(self) -> list[str]:
        return [self.what, self.figures, self.wanted, "met" if self.met else "**missed**"]


@dataclass(frozen=True)
class Found:
    """All of one run. `raw`: samples a second by model and batch, before, between and after the servers' figures."""

    raw: Mapping[str, Mapping[int, Sequence[float]]]
    points: Sequence[Point]
    shards: Sequence[Shards]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why, by server and model."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Found:
        """Of what `measure.py` wrote."""
        return cls(
            {model: {int(batch): rates for batch, rates in of.items()} for model, of in found["raw"].items()},
            [Point(**point) for point in found["points"]],
            [Shards(**shards) for shards in found["shards"]],
            found["left_out"],
        )

    def raw_rate(self, model: str, batch: int) -> float:
        return statistics.mean(self.raw[model][batch])

    def point(self, model: str, server: str, connections: int) -> Point | None:
        wanted = (model, server, connections)
        return next((one for one in self.points if (one.model, one.server, one.connections) == wanted), None)

    @property
    def goals(self) -> list[Goal]:
        return [*self._faster("small"), *self._of_raw("medium"), *self._quicker()]

    def _faster(self, model: str) -> Iterator[Goal]:
        for ours, theirs in (*UNLIKE, *PAIRS):
            for connections in CONNECTIONS[1:]:
                our, their = self.point(model, ours, connections), self.point(model, theirs, connections)
                if our and their:
                    yield Goal(
                        f"{model}, {connections} connections: {ours} : {theirs}",
                        f"{our.rate:,.0f} : {their.rate:,.0f} = {our.rate / their.rate:.1f}",
                        f"≥ {FASTER:g}",
                        our.rate >= FASTER * their.rate,
                    )

    def _of_raw(self, model: str) -> Iterator[Goal]:
        connections = CONNECTIONS[-1]
        our = self.point(model, MUSTER_DELAY, connections)
        if our:
            raw = self.raw_rate(model, BATCH)
            yield Goal(
                f"{model}, {connections} connections: {MUSTER_DELAY} : torch alone, batches of {BATCH}",
                f"{our.rate:,.0f} : {raw:,.0f} = {our.rate / raw:.2f}",
                f"≥ {OF_RAW:g}",
                our.rate >= OF_RAW * raw,
            )

    def _quicker(self) -> Iterator[Goal]:
        for model in self.raw:
            for ours, theirs in (*UNLIKE, *PAIRS):
                pairs = [
                    (our.p99, their.p99)
                    for connections in CONNECTIONS
                    if (our := self.point(model, ours, connections))
                    and (their := self.point(model, theirs, connections))
                ]
                if pairs:
                    yield Goal(
                        f"{model}, {_numbers(CONNECTIONS)} connections: p99 of {ours}, of {theirs}",
                        "; ".join(f"{_milliseconds(our)}, {_milliseconds(their)}" for our, their in pairs) + " ms",
                        "below",
                        all(our < their for our, their in pairs),
                    )


GOAL_HEAD = ("goal", "found", "wanted", "")
POINT_HEAD = (
    *("model", "server", "connections", "requests/s", "p50, ms", "p99, ms", "memory, MiB"),
    *("bytes sent", "received", "its cores", "load generator's"),
)
SHARDS_HEAD = ("--data", "requests/s", "speed-up", "p99, ms", f"--max-batch-size {BATCH}", "speed-up", "p99, ms")
RAW_HEAD = ("torch alone", "parameters", "batch 1, samples/s", f"batch {BATCH}, samples/s")


def point_of(model: str, server: str, connections: int, loads: Sequence[Mapping[str, float]], memory: int) -> Point:
    """`loads`: what each found, by the names of Point's fields."""
    medians = {name: statistics.median(load[name] for load in loads) for name in loads[0]}
    return Point(model, server, connections, **medians, memory=memory)


def told(point: Point) -> str:
    return (
        f"{point.model}, {point.server}, {point.connections} connections: {point.rate:,.0f} requests/s, "
        f"p50 {point.p50 * 1000:.2f} ms, p99 {point.p99 * 1000:.2f} ms; "
        f"cores of the server {point.server_busy:.2f}, of the load generator {point.busy:.2f}"
    )


def point_row(point: Point) -> list[str]:
    return [
        *(point.model, point.server, str(point.connections), f"{point.rate:,.0f}"),
        *(_milliseconds(point.p50), _milliseconds(point.p99), f"{point.memory / _MIB:,.0f}"),
        *(f"{point.sent:,.0f}", f"{point.received:,.0f}", f"{point.server_busy:.2f}", f"{point.busy:.2f}"),
    ]


def shards_rows(shards: Sequence[Shards]) -> list[list[str]]:
    """The speed-up is over the fewest."""
    rows = []
    for count in sorted({one.count for one in shards}):
        row = [str(count)]
        for batches in (False, True):
            of = {one.count: one for one in shards if one.batches == batches}
            one, first = of[count], of[min(of)]
            row += [f"{one.rate:,.0f}", f"{one.rate / first.rate:.2f}", _milliseconds(one.p99)]
        rows.append(row)
    return rows


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least of these that so many are not above; `ordered` ascends and is not empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def same(found: Sequence[float], wanted: Sequence[float]) -> bool:
    """Whether an answer is the wanted one, but for what the order of additions in float32 explains."""
    return len(found) == len(wanted) and all(
        math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5) for one, other in zip(found, wanted, strict=True)
    )


def _milliseconds(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _numbers(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
