"""What the operator says of itself: Prometheus metrics and logs."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

if TYPE_CHECKING:
    from muster.client import Call

LogFormat = Literal["json", "console"]

_FAST = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class Metrics:
    """All metrics, in a registry of their own: several operators in one process do not share them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = {"registry": self.registry}
        self.queue_depth = Gauge("muster_queue_depth", "Resources waiting for their turn.", **own)
        self.queue_waited = Histogram(
            "muster_queue_latency_seconds", "How long resources waited for their turn.", buckets=_FAST, **own
        )
        self.queue_retries = Counter("muster_queue_retries", "Resources queued again after a failure.", **own)
        self.reconciles = Histogram(
            "muster_reconcile_seconds",
            "How long one look at a resource took, by outcome.",
            ("kind", "outcome"),
            buckets=_FAST,
            **own,
        )
        self.api_requests = Counter(
            "muster_api_requests", "Requests to the API server.", ("verb", "resource", "code"), **own
        )
        self.api_seconds = Histogram(
            "muster_api_request_seconds",
            "How long requests to the API server took to be answered, watches excepted.",
            ("verb",),
            buckets=_FAST,
            **own,
        )
        self.leader = Gauge("muster_leader", "1 while this operator is the one that writes.", **own)
        self.scrapes = Counter("muster_scrapes", "Questions to workers, by result.", ("result",), **own)
        self.scrape_targets = Gauge("muster_scrape_targets", "Workers that are asked.", **own)
        self.scrape_interval = Gauge(
            "muster_scrape_interval_seconds", "Seconds between two questions to one worker.", **own
        )
        self.store_objects = Gauge("muster_store_objects", "Objects known.", ("kind",), **own)
        self.corrections = Counter(
            "muster_store_corrections",
            "Objects that a full list showed to be known wrongly.",
            ("kind",),
            **own,
        )
        self.watch_failures = Counter("muster_watch_failures", "Times that all watches were begun anew.", **own)

    def depth(self, keys: int) -> None:
        self.queue_depth.set(keys)

    def taken(self, waited: float) -> None:
        self.queue_waited.observe(waited)

    def retried(self) -> None:
        self.queue_retries.inc()

    def called(self, call: Call) -> None:
        self.api_requests.labels(call.verb, call.resource, call.code).inc()
        if call.verb != "watch":
            self.api_seconds.labels(call.verb).observe(call.seconds)


def configure_logging(level: str, log_format: LogFormat) -> None:
    """One stream of log lines, structured, for our own loggers and for those of the libraries."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    rendered: list[structlog.types.Processor]
    if log_format == "json":
        rendered = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        rendered = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # kopf tells of every watch and every object; what matters of it we tell ourselves.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("kopf._core.reactor").setLevel(logging.CRITICAL)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
