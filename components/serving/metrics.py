"""What Prometheus is told at /metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from components.serving.worker import SpanAnswer

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ROWS = (1, 4, 16, 64, 256, 512, 1024)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one service; names of keys and values of rows are not among them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        options: Any = {"registry": self._registry}
        self.requests = Counter(
            "difflm_requests", "Requests answered.", ["route", "method", "status"], **options
        )
        self.request_seconds = Histogram(
            "difflm_request_seconds",
            "Time to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
            **options,
        )
        self.refused = Counter("difflm_refused", "Requests refused.", ["code"], **options)
        self.in_flight = Gauge("difflm_answers_in_flight", "Answers being made.", **options)
        self.rows = Counter("difflm_rows", "Rows made.", ["model"], **options)
        self.rejected = Counter(
            "difflm_rejected_tries", "Tries at rows that were rejected.", ["model"], **options
        )
        self.waited = Histogram(
            "difflm_span_wait_seconds",
            "Time a span waited for a batch.",
            buckets=_SECONDS,
            **options,
        )
        self.made = Histogram(
            "difflm_span_seconds", "Time to make a span.", buckets=_SECONDS, **options
        )
        self.batch_rows = Histogram(
            "difflm_batch_rows", "Rows of the batch of a span.", buckets=_ROWS, **options
        )
        self.jobs = Gauge("difflm_jobs", "Jobs.", ["status"], **options)
        self.models = Gauge(
            "difflm_model_info", "Models that are served.", ["model", "version"], **options
        )

    def observe(self, model: str, answer: SpanAnswer) -> None:
        """Count a span."""
        self.rows.labels(model).inc(answer.num_rows)
        self.rejected.labels(model).inc(answer.num_rejected)
        self.waited.observe(answer.waited_seconds)
        self.made.observe(answer.made_seconds)
        self.batch_rows.observe(answer.shared_rows)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)
