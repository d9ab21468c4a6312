"""What the server counts, for Prometheus."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One registry a server: tests have several in a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        of = {"registry": self._registry}
        self._requests = Counter("muster_serve_requests", "Inferences answered.", ["protocol", "code"], **of)
        self._seconds = Histogram(
            "muster_serve_request_seconds", "From a whole request to its answer.", ["protocol"], buckets=_SECONDS, **of
        )
        self._samples = Histogram("muster_serve_batch_samples", "Samples computed together.", buckets=_SAMPLES, **of)
        self._waited = Histogram(
            "muster_serve_wait_seconds", "What a request waits for its computation.", buckets=_SECONDS, **of
        )
        self._explanations = Counter("muster_serve_explanations", "Explanations answered.", ["code"], **of)
        self._explanation_seconds = Histogram(
            "muster_serve_explanation_seconds", "From a whole request to its explanation.", buckets=_SECONDS, **of
        )
        self._generated = Counter("muster_serve_generated_tokens", "Tokens generated.", **of)
        self._first_token = Histogram(
            "muster_serve_first_token_seconds", "From a request for text to its first token.", buckets=_SECONDS, **of
        )
        self._ready = Gauge("muster_serve_ready", "1 while requests are welcome.", **of)
        # Looking them up by their labels takes longer than counting.
        self._children = functools.cache(
            lambda protocol, code: (self._requests.labels(protocol, code), self._seconds.labels(protocol))
        )

    def answered(self, protocol: str, code: str, seconds: float) -> None:
        requests, latencies = self._children(protocol, code)
        requests.inc()
        latencies.observe(seconds)

    def explained(self, code: str, seconds: float) -> None:
        self._explanations.labels(code).inc()
        self._explanation_seconds.observe(seconds)

    def batch(self, samples: int, waited: Sequence[float]) -> None:
        self._samples.observe(samples)
        for seconds in waited:
            self._waited.observe(seconds)

    def first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def tokens(self, count: int) -> None:
        self._generated.inc(count)

    def watch_sequences(self, active: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Of a model that generates text."""
        sequences = Gauge(
            "muster_serve_sequences", "Texts that are not at their end.", ["state"], registry=self._registry
        )
        sequences.labels("active").set_function(lambda: float(active()))
        sequences.labels("waiting").set_function(lambda: float(waiting()))

    def watch_ready(self, ready: Callable[[], bool]) -> None:
        self._ready.set_function(lambda: float(ready()))

    def watch_group(self, present: Callable[[], int], wanted: int) -> None:
        """Of a replica that is several processes."""
        processes = Gauge("muster_serve_group_processes", "That compute together.", ["state"], registry=self._registry)
        processes.labels("present").set_function(lambda: float(present()))
        processes.labels("wanted").set(wanted)

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
