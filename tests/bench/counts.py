"""Reads metrics: what the API server was asked and what it cost, and the operator's latencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from tests.bench import place
from tests.bench.usage import usage

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


def total(metrics: Samples, name: str) -> float:
    """Return the sum of a metric's samples, whatever their labels."""
    return sum(value for (sample, _), value in metrics.items() if sample == name)


@dataclass(frozen=True)
class Server:
    """What the cluster has done since its start. `requests` by (verb, resource), subresources by pods/status.

    `cpu` is the API server's, `controllers` that of kube-controller-manager, in seconds.
    """

    cpu: float
    controllers: float
    requests: Counter[tuple[str, str]]

    def __sub__(self, earlier: Server) -> Server:
        requests = Counter(self.requests)
        requests.subtract(earlier.requests)
        return Server(self.cpu - earlier.cpu, self.controllers - earlier.controllers, requests)

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
    return Server(cpu, usage(place.controller_manager()).cpu, requests)


@dataclass(frozen=True)
class Latency:
    """Seconds. `most` is the bound of the histogram's bucket below which 99 of 100 are."""

    mean: float
    most: float


def latency(earlier: Samples, later: Samples, name: str) -> Latency:
    """Return what a histogram counted in between, all its labels together."""
    buckets: Counter[float] = Counter()
    for (sample, labels), value in later.items():
        if sample == f"{name}_bucket":
            grown = value - earlier.get((sample, labels), 0.0)
            buckets[float(dict(labels)["le"])] += grown  # type: ignore[assignment]
    seconds, count = (total(later, f"{name}_{of}") - total(earlier, f"{name}_{of}") for of in ("sum", "count"))
    most = next((bound for bound in sorted(buckets) if buckets[bound] >= 0.99 * count), float("inf"))
    return Latency(seconds / count if count else 0.0, most)
