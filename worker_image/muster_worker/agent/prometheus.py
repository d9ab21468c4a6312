"""The state as Prometheus metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

_PROGRESS = {
    "step": "The last step made.",
    "epoch": "The epoch of the last step.",
    "totalSteps": "The steps the training is to make in all.",
}
_METRICS = {
    "loss": "The training loss.",
    "learningRate": "The learning rate.",
    "samplesPerSecond": "Samples of all ranks together, a second.",
}


class _StateCollector:
    def __init__(self, state: Mapping[str, Any], ranks_running: int, restarts: int) -> None:
        self._state = state
        self._restarts = restarts
        self._ranks_running = ranks_running

    def collect(self) -> Iterator[Metric]:
        state = self._state
        for source, described in ((state["progress"], _PROGRESS), (state["metrics"], _METRICS)):
            for key, description in described.items():
                if key in source:
                    yield _gauge(_snake(key), description, source[key])
        named = GaugeMetricFamily("muster_worker_metric", "Every metric the ranks report.", labels=["name"])
        for key, value in sorted(state["metrics"].items()):
            named.add_metric([key], value)
        yield named
        yield CounterMetricFamily(
            "muster_worker_restarts", "Restarts of the ranks inside this pod.", value=self._restarts
        )
        yield _gauge("ranks_running", "Ranks that run in this pod.", self._ranks_running)
        yield _gauge("attempt", "The attempt of the job.", state["attempt"])
        if state["checkpoint"]:
            yield _gauge("checkpoint_step", "The step of the last checkpoint.", state["checkpoint"].get("step", 0))


def exposition(state: Mapping[str, Any], ranks_running: int, restarts: int) -> bytes:
    """The text that `/metrics` answers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StateCollector(state, ranks_running, restarts))
    return generate_latest(registry)


def _gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"muster_worker_{name}", description, value=value)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
