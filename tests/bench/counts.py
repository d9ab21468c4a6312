"""Reads Prometheus metrics: what the API server was asked and what it cost, and the operator's latencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from tests.bench.api import Api

Labels: TypeAlias = frozenset[tuple[str, str]]
Samples: TypeAlias = Mapping[tuple[str, Labels], float]

WRITES = {"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"}
# What the cluster says to itself at its own pace, whatever is done on it.
_PACED = {"leases", "nodes", "nodes/status"}
_WANTED = ("apiserver_request_total{", "process_cpu_seconds_total")


def samples(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@dataclass(frozen=True)
class Server:
    """What the API server has done since its start. `requests` by (verb, resource), subresources by pods/status."""

    cpu: float
    requests: Counter[tuple[str, str]]

    def __sub__(self, earlier: Server) -> Server:
        requests = Counter(self.requests)
        requests.subtract(earlier.requests)
        return Server(self.cpu - earlier.cpu, requests)

    def writes(self, *resources: str) -> int:
        """Return how many writes there were, of all resources if none is named."""
        return sum(
            number
            for (verb, resource), number in self.requests.items()
            if verb in WRITES and (not resources or resource in resources)
        )


async def server(api: Api) -> Server:
    text = await api.text("/metrics")
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(_WANTED))
    requests: Counter[tuple[str, str]] = Counter()
    cpu = 0.0
    for (name, labels), value in samples(lines).items():
        if name == "process_cpu_seconds_total":
            cpu = value
            continue
        of = dict(labels)
        resource = "/".join(part for part in (of["resource"], of["subresource"]) if part)
        if of["resource"] and resource not in _PACED:
            requests[of["verb"], resource] += int(value)
    return Server(cpu, requests)


@dataclass(frozen=True)
class Latency:
    """Seconds. `most` is the bound of the histogram's bucket below which 99 of 100 are."""

    mean: float
    most: float


def latency(earlier: Samples, later: Samples, name: str) -> Latency:
    """Return what a histogram counted in between, all its labels together."""
    buckets: Counter[float] = Counter()
    total = Counter[str]()
    for (sample, labels), value in later.items():
        grown = value - earlier.get((sample, labels), 0.0)
        if sample == f"{name}_bucket":
            buckets[float(dict(labels)["le"])] += grown  # type: ignore[assignment]
        elif sample in {f"{name}_sum", f"{name}_count"}:
            total[sample] += grown  # type: ignore[assignment]
    count = total[f"{name}_count"]
    most = next((bound for bound in sorted(buckets) if buckets[bound] >= 0.99 * count), float("inf"))
    return Latency(total[f"{name}_sum"] / count if count else 0.0, most)
