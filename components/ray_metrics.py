"""Progress of stages as metrics of Ray, which every node offers to Prometheus.

The process that runs a stage gives its numbers to the node it is on; Ray adds the prefix `ray_`,
brings them to the endpoint every ten seconds and when the process ends, and drops a gauge that has
not been set for twenty. So gauges show what goes on, counters what has been done. docs/watching.md
lists them. The names of columns are the only text of a table that appears.
"""

from __future__ import annotations

import sys
from typing import Any

from difflm_core.progress import Report

# Name, what it is, and by what it is told apart.
_COUNTERS = {
    "difflm_rows_total": ("Rows that a task has gone through.", ("stage", "task")),
    "difflm_tokens_total": ("Tokens that a task has gone through.", ("stage", "task")),
    "difflm_rejections_total": (
        "Tries for a generated row that were rejected, of finished stages.",
        ("stage", "column", "reason"),
    ),
    "difflm_stage_seconds_total": ("Time that finished stages took.", ("stage",)),
    "difflm_stage_cpu_seconds_total": ("Processor time of all their processes.", ("stage",)),
    "difflm_stage_gpu_seconds_total": ("GPU time of all their processes.", ("stage",)),
}
_GAUGES = {
    "difflm_progress_ratio": ("Share of a task that is done.", ("stage", "task")),
    "difflm_rate_per_second": ("Units (rows, steps) done per second.", ("stage", "task", "unit")),
    "difflm_tokens_per_second": ("Tokens gone through per second.", ("stage", "task")),
    "difflm_loss": ("Loss of the last training step.", ("stage", "task")),
    "difflm_metric": ("Other metrics of a training.", ("stage", "task", "metric")),
    "difflm_stage_peak_memory_bytes": (
        "Largest memory of a process of a finished stage.",
        ("stage",),
    ),
}


class RayMetrics:
    """A sink that sets metrics of Ray; silent until Ray runs, which it never starts."""

    interval_seconds = 1.0

    def __init__(self) -> None:
        self._stage = ""
        self._metrics: dict[str, Any] = {}
        self._counted: dict[tuple[int, str], float] = {}

    def start(self, report: Report) -> None:
        """Set nothing: the first update says it all."""

    def update(self, report: Report) -> None:
        """Set the state of a task."""
        if not self._is_on():
            return
        task = {"task": report.description}
        counts = {report.unit: 1.0, **report.contents}
        for unit in ("rows", "tokens"):
            if unit in counts:
                self._count_up(report, unit, report.num_new * counts[unit])
        if report.total:
            self._set("difflm_progress_ratio", report.done / report.total, **task)
        self._set("difflm_rate_per_second", report.rate, **task, unit=report.unit)
        if "tokens" in counts:
            self._set("difflm_tokens_per_second", report.rate * counts["tokens"], **task)
        for name, value in report.metrics.items():
            if name == "loss":
                self._set("difflm_loss", value, **task)
            else:
                self._set("difflm_metric", value, **task, metric=name)

    def finish(self, report: Report) -> None:
        """Set the last state of a task."""
        self.update(report)
        for key in [key for key in self._counted if key[0] == id(report)]:
            del self._counted[key]

    def event(self, name: str, values: dict[str, Any]) -> None:
        """Remember which stage runs; set what a finished one has used."""
        if name == "stage_started":
            self._stage = values["stage"]
        if name != "stage_finished" or not self._is_on():
            return
        self._add("difflm_stage_seconds_total", values["duration_seconds"])
        self._add("difflm_stage_cpu_seconds_total", values["cpu_hours"] * 3600)
        self._add("difflm_stage_gpu_seconds_total", values["gpu_hours"] * 3600)
        peaks = (values["peak_memory_bytes"], values["worker_peak_memory_bytes"])
        self._set("difflm_stage_peak_memory_bytes", max(peak or 0 for peak in peaks))
        for column, reasons in values.get("rejections", {}).items():
            for reason, count in reasons.items():
                self._add("difflm_rejections_total", count, column=column, reason=reason)

    def _is_on(self) -> bool:
        # Importing Ray would settle where an embedded one listens, too early.
        ray = sys.modules.get("ray")
        return ray is not None and ray.is_initialized()

    def _set(self, name: str, value: float, **tags: str) -> None:
        self._metric(name).set(value, {"stage": self._stage, **tags})

    def _add(self, name: str, value: float, **tags: str) -> None:
        # Ray's counters refuse zero.
        if value > 0:
            self._metric(name).inc(value, {"stage": self._stage, **tags})

    def _count_up(self, report: Report, unit: str, count: float) -> None:
        """Count what has been done since the last update."""
        key = (id(report), unit)
        more = count - self._counted.get(key, 0)
        self._add(f"difflm_{unit}_total", more, task=report.description)
        self._counted[key] = count

    def _metric(self, name: str) -> Any:
        """Make a metric when it is needed first: Ray must run by then."""
        from ray.util.metrics import Counter, Gauge

        if name not in self._metrics:
            kind, table = (Counter, _COUNTERS) if name in _COUNTERS else (Gauge, _GAUGES)
            text, tags = table[name]
            self._metrics[name] = kind(name, text, tag_keys=tags)
        return self._metrics[name]
