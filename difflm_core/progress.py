"""Progress and logging: set up once, reported to the console and to JSON lines.

Math code takes a `Progress` (default `SILENT`) and reports to it:

    with progress.track("Training", total=1000, unit="steps") as bar:
        bar.advance(1, loss=loss)

What becomes of the reports is decided by the sinks: a bar on a terminal, a line now and then in a
log file, an event per second in `metrics.jsonl`. Reports are throttled, and a metric is converted
to a number only when it is shown, so a tensor on a GPU is not waited for in every step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, SupportsFloat

if TYPE_CHECKING:
    from rich.console import Console

LOGGER_NAME = "difflm"


@dataclass
class Report:
    """State of one tracked task, as the sinks see it.

    Attributes:
        description: What is being done.
        total: Units to do in all; None if not known.
        unit: What is counted, in the plural.
        done: Units done, `initial` among them.
        initial: Units that were done before, in a run that continues.
        seconds: Time since the task (or its continuation) began.
        metrics: Latest value of each metric.
        contents: What a unit consists of on average, by name, such as the tokens of a step.
    """

    description: str
    total: int | None
    unit: str
    done: int = 0
    initial: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    contents: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def num_new(self) -> int:
        """Units done since the task (or its continuation) began."""
        return self.done - self.initial

    @property
    def rate(self) -> float:
        """Units per second since the task (or its continuation) began."""
        return self.num_new / self.seconds if self.seconds > 0 else 0.0

    @property
    def rates(self) -> dict[str, float]:
        """What else is done per second, by name, such as `tokens_per_second`."""
        return {f"{name}_per_second": self.rate * count for name, count in self.contents.items()}

    @property
    def remaining_seconds(self) -> float | None:
        """Estimate of the time left; None if the total or the rate is not known."""
        if self.total is None or self.rate <= 0:
            return None
        return max(self.total - self.done, 0) / self.rate


class Sink(Protocol):
    """Where reports go."""

    interval_seconds: float

    def start(self, report: Report) -> None:
        """A task begins."""
        ...

    def update(self, report: Report) -> None:
        """A task goes on; called at most every `interval_seconds`."""
        ...

    def finish(self, report: Report) -> None:
        """A task ends, well or not."""
        ...

    def event(self, name: str, values: dict[str, Any]) -> None:
        """Something worth keeping happened."""
        ...


class Bar:
    """A task being tracked. Cheap to advance."""

    def __init__(self, report: Report, sinks: Sequence[Sink]) -> None:
        self.report = report
        self._sinks = sinks
        self._metrics: dict[str, SupportsFloat] = {}
        self._start = time.monotonic()
        self._due = [self._start + sink.interval_seconds for sink in sinks]
        self._next = min(self._due, default=float("inf"))

    def advance(self, count: int = 1, **metrics: SupportsFloat) -> None:
        """Count `count` more units as done; keep the latest value of each metric."""
        self.report.done += count
        self._metrics.update(metrics)
        now = time.monotonic()
        if now < self._next:
            return
        self._refresh(now)
        for index, sink in enumerate(self._sinks):
            if now >= self._due[index]:
                sink.update(self.report)
                self._due[index] = now + sink.interval_seconds
        self._next = min(self._due)

    def close(self) -> None:
        """Report the end of the task."""
        self._refresh(time.monotonic())
        for sink in self._sinks:
            sink.finish(self.report)

    def _refresh(self, now: float) -> None:
        self.report.seconds = now - self._start
        self.report.metrics = {name: float(value) for name, value in self._metrics.items()}


class Progress:
    """What code reports to; without sinks it is silent and free."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self.sinks = tuple(sinks)

    @contextlib.contextmanager
    def track(
        self,
        description: str,
        total: int | None = None,
        unit: str = "rows",
        initial: int = 0,
        contents: Mapping[str, float] | None = None,
    ) -> Generator[Bar]:
        """Track a task.

        Args:
            description: what is being done, such as "Training".
            total: units to do in all; None if not known.
            unit: what is counted, in the plural.
            initial: units that were done before, in a run that continues.
            contents: what a unit consists of on average, such as `{"tokens": 4096}`; files and
                monitoring show its rate.
        """
        report = Report(description, total, unit, initial, initial, contents=dict(contents or {}))
        for sink in self.sinks:
            sink.start(report)
        bar = Bar(report, self.sinks)
        try:
            yield bar
        finally:
            bar.close()

    def event(self, name: str, **values: Any) -> None:
        """Keep a named record, such as the losses of a validation; values must be JSON."""
        for sink in self.sinks:
            sink.event(name, values)


SILENT = Progress()


class Relay:
    """Repeats, in this process, what a `Messages` sink in another one has put into words.

    A task that begins again, since its process was replaced, closes the one before it.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._bar: Bar | None = None

    def repeat(self, kind: str, values: dict[str, Any]) -> None:
        """Repeat one message."""
        if kind == "start":
            self.close()
            track = self._progress.track(
                values["description"],
                values["total"],
                values["unit"],
                values["done"],
                values["contents"],
            )
            self._bar = self._stack.enter_context(track)
        elif kind == "event":
            self._progress.event(values["name"], **values["values"])
        elif self._bar is not None:
            self._bar.report.total = values["total"]
            self._bar.advance(values["done"] - self._bar.report.done, **values["metrics"])
            if kind == "finish":
                self.close()

    def close(self) -> None:
        """End the task that is open, if any."""
        self._stack.close()
        self._bar = None


class Messages:
    """A sink that words reports as plain values, which travel between processes."""

    interval_seconds = 1.0

    def __init__(self, send: Callable[[str, dict[str, Any]], object]) -> None:
        self._send = send

    def start(self, report: Report) -> None:
        """Send the start of a task."""
        self._report("start", report)

    def update(self, report: Report) -> None:
        """Send the state of a task."""
        self._report("update", report)

    def finish(self, report: Report) -> None:
        """Send the last state of a task."""
        self._report("finish", report)

    def event(self, name: str, values: dict[str, Any]) -> None:
        """Send an event."""
        self._send("event", {"name": name, "values": values})

    def _report(self, kind: str, report: Report) -> None:
        values = {
            "description": report.description,
            "total": report.total,
            "unit": report.unit,
            "done": report.done,
            "metrics": report.metrics,
            "contents": report.contents,
        }
        self._send(kind, values)


class Tally:
    """A sink that counts what a stage has gone through: rows, tokens, and other units.

    Rows that several tasks go through, one after the other, count once.
    """

    interval_seconds = float("inf")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def start(self, report: Report) -> None:
        """Count nothing yet."""

    def update(self, report: Report) -> None:
        """Count nothing yet."""

    def finish(self, report: Report) -> None:
        """Count what this task has done; not what was done before, in a run that continues."""
        for name, count in {report.unit: 1.0, **report.contents}.items():
            self.counts[name] = max(self.counts[name], round(count * report.num_new))

    def event(self, name: str, values: dict[str, Any]) -> None:
        """Count nothing: events are for files."""


class JsonLines:
    """Appends reports and events to a local file, one JSON object per line."""

    interval_seconds = 1.0

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, report: Report) -> None:
        """Write nothing: the first update says it all."""

    def update(self, report: Report) -> None:
        """Write the state of a task."""
        self._write("progress", _state(report))

    def finish(self, report: Report) -> None:
        """Write the last state of a task."""
        self._write("task_finished", _state(report))

    def event(self, name: str, values: dict[str, Any]) -> None:
        """Write an event."""
        self._write(name, values)

    def _write(self, event: str, values: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time_utc": now, "event": event, **values}, allow_nan=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _state(report: Report) -> dict[str, Any]:
    return {
        "task": report.description,
        "done": report.done,
        "total": report.total,
        "unit": report.unit,
        "seconds": round(report.seconds, 3),
        "rate_per_second": round(report.rate, 3),
        **{name: round(rate, 3) for name, rate in report.rates.items()},
        **report.metrics,
    }


class PlainLines:
    """Prints a line now and then, for logs and pipes."""

    def __init__(self, stream: IO[str] | None = None, interval_seconds: float = 10.0) -> None:
        self.interval_seconds = interval_seconds
        self._stream = stream

    def start(self, report: Report) -> None:
        """Print nothing yet: a short task needs one line only."""

    def update(self, report: Report) -> None:
        """Print the state of a task."""
        self._print(format_report(report))

    def finish(self, report: Report) -> None:
        """Print the last state of a task."""
        self._print(f"{format_report(report, left=False)}, {format_seconds(report.seconds)} in all")

    def event(self, name: str, values: dict[str, Any]) -> None:
        """Print nothing: events are for files."""

    def _print(self, line: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()


def format_report(report: Report, left: bool = True) -> str:
    """Word the state of a task in one line: done, share, rate, time left, metrics."""
    parts = [f"{report.done:,} {report.unit}"]
    if report.total is not None:
        share = report.done / report.total if report.total else 1.0
        parts[0] = f"{report.done:,}/{report.total:,} {report.unit} ({share:.0%})"
    if report.rate > 0:
        parts.append(f"{format_rate(report.rate)} {report.unit}/s")
    if left and report.remaining_seconds is not None:
        parts.append(f"{format_seconds(report.remaining_seconds)} left")
    parts.extend(f"{name} {value:.4g}" for name, value in report.metrics.items())
    return f"{report.description}: {', '.join(parts)}"


def format_rate(rate: float) -> str:
    """Word a rate with three significant digits."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def format_seconds(seconds: float) -> str:
    """Word a duration: 3.2 s, 2:05 or 1:02:05."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class RichBar:
    """Draws a bar with rate, time left and metrics on a terminal."""

    interval_seconds = 0.1

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Any = None
        self._tasks: dict[int, Any] = {}

    def start(self, report: Report) -> None:
        """Show a new bar."""
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as RichProgress

        if self._live is None:
            self._live = RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[status]}"),
                console=self._console,
            )
            self._live.start()
        self._tasks[id(report)] = self._live.add_task(
            report.description, total=report.total, completed=report.done, status=""
        )

    def update(self, report: Report) -> None:
        """Move the bar."""
        self._show(report, left=True)

    def finish(self, report: Report) -> None:
        """Leave the finished bar on the screen."""
        self._show(report, left=False)
        del self._tasks[id(report)]
        if not self._tasks:
            self._live.stop()
            self._live = None

    def event(self, name: str, values: dict[str, Any]) -> None:
        """Show nothing: events are for files."""

    def _show(self, report: Report, left: bool) -> None:
        status = format_report(report, left).removeprefix(f"{report.description}: ")
        if not left:
            status += f", {format_seconds(report.seconds)}"
        self._live.update(self._tasks[id(report)], completed=report.done, status=status)


def console_sink(console: Console) -> Sink:
    """Choose the sink for a console: a bar on a terminal, plain lines elsewhere."""
    return RichBar(console) if console.is_terminal else PlainLines(console.file)


def setup_logging(console: Console, level: int = logging.INFO) -> None:
    """Send the library's log to a console. For applications; a library leaves logging alone."""
    handler: logging.Handler
    if console.is_terminal:
        from rich.logging import RichHandler

        handler = RichHandler(console=console, show_path=False, show_time=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger(LOGGER_NAME)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
