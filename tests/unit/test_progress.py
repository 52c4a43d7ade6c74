import io
import json
import logging

import pytest
from rich.console import Console

from difflm_core import progress as progress_module
from difflm_core.progress import (
    SILENT,
    JsonLines,
    Messages,
    PlainLines,
    Progress,
    Relay,
    Report,
    RichBar,
    Tally,
    console_sink,
    format_report,
    format_seconds,
    setup_logging,
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", clock)
    return clock


class CountingMetric:
    """A value that is expensive to convert, like a tensor on a GPU."""

    def __init__(self):
        self.conversions = 0

    def __float__(self):
        self.conversions += 1
        return 0.5


class Recorder:
    interval_seconds = 1.0

    def __init__(self):
        self.seen = []

    def start(self, report):
        self.seen.append(("start", report.done))

    def update(self, report):
        self.seen.append(("update", report.done, report.metrics))

    def finish(self, report):
        self.seen.append(("finish", report.done, report.metrics))

    def event(self, name, values):
        self.seen.append((name, values))


def test_updates_are_throttled_and_metrics_converted_only_then(clock):
    sink, metric = Recorder(), CountingMetric()
    with Progress([sink]).track("Training", total=300) as bar:
        for _ in range(250):
            clock.now += 0.01
            bar.advance(1, loss=metric)
    assert sink.seen == [
        ("start", 0),
        ("update", 100, {"loss": 0.5}),
        ("update", 200, {"loss": 0.5}),
        ("finish", 250, {"loss": 0.5}),
    ]
    assert metric.conversions == 3


def test_an_error_ends_the_bar_and_passes():
    sink = Recorder()

    def train():
        with Progress([sink]).track("Training") as bar:
            bar.advance(2)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        train()
    assert sink.seen[-1] == ("finish", 2, {})


def test_silence_converts_nothing():
    metric = CountingMetric()
    with SILENT.track("Training", total=1) as bar:
        bar.advance(1, loss=metric)
    SILENT.event("validation", loss=1)
    assert bar.report.done == 1


def test_json_lines(tmp_path, clock):
    path = tmp_path / "metrics.jsonl"
    progress = Progress([JsonLines(path)])
    with progress.track("Training", total=4, unit="steps", initial=2) as bar:
        clock.now += 2
        bar.advance(1, loss=0.25)
        progress.event("validation", step=3, loss=0.5)
        bar.advance(1, loss=0.125)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line.pop("time_utc").endswith("+00:00") for line in lines)
    common = {"task": "Training", "total": 4, "unit": "steps", "seconds": 2.0}
    assert lines == [
        {**common, "event": "progress", "done": 3, "rate_per_second": 0.5, "loss": 0.25},
        {"event": "validation", "step": 3, "loss": 0.5},
        {**common, "event": "task_finished", "done": 4, "rate_per_second": 1.0, "loss": 0.125},
    ]


def test_what_a_unit_consists_of_has_a_rate_in_files_not_on_the_console(tmp_path, clock):
    path, stream, tally = tmp_path / "metrics.jsonl", io.StringIO(), Tally()
    progress = Progress([JsonLines(path), PlainLines(stream), tally])
    contents = {"tokens": 100}
    with progress.track("Training", 5, "steps", initial=1, contents=contents) as bar:
        clock.now += 2
        bar.advance(4)
    last = json.loads(path.read_text().splitlines()[-1])
    assert (last["rate_per_second"], last["tokens_per_second"]) == (2.0, 200.0)
    assert "token" not in stream.getvalue()
    assert tally.counts == {"steps": 4, "tokens": 400}


def test_plain_lines_now_and_then(clock):
    stream = io.StringIO()
    with Progress([PlainLines(stream, interval_seconds=10)]).track("Writing", total=400) as bar:
        for _ in range(4):
            clock.now += 5
            bar.advance(100)
    assert stream.getvalue() == (
        "Writing: 200/400 rows (50%), 20 rows/s, 10.0 s left\n"
        "Writing: 400/400 rows (100%), 20 rows/s, 0.0 s left\n"
        "Writing: 400/400 rows (100%), 20 rows/s, 20.0 s in all\n"
    )


def test_a_report_in_words():
    report = Report("Training", 5000, "steps", done=1500, initial=500, seconds=10)
    report.metrics = {"loss": 1.23456, "kl": 12.0}
    assert format_report(report) == (
        "Training: 1,500/5,000 steps (30%), 100 steps/s, 35.0 s left, loss 1.235, kl 12"
    )
    assert format_report(Report("Reading", None, "rows", done=7)) == "Reading: 7 rows"
    assert format_report(Report("Reading", 0, "rows")) == "Reading: 0/0 rows (100%)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1:00"), (3599.6, "1:00:00"), (3725, "1:02:05")],
)
def test_seconds_in_words(seconds, text):
    assert format_seconds(seconds) == text


def test_a_terminal_gets_a_bar_with_metrics():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    sink = console_sink(console)
    assert isinstance(sink, RichBar)
    with Progress([sink]).track("Training", total=10, unit="steps") as bar:
        bar.advance(10, loss=0.5)
    assert "10/10 steps (100%)" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()


def test_nested_bars_share_the_terminal():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    progress = Progress([RichBar(console)])
    with progress.track("Outer", total=1) as outer, progress.track("Inner", total=2) as inner:
        inner.advance(2)
        outer.advance(1)
    assert "1/1 rows" in stream.getvalue()
    assert "2/2 rows" in stream.getvalue()


def test_a_pipe_gets_plain_lines():
    stream = io.StringIO()
    sink = console_sink(Console(file=stream))
    assert isinstance(sink, PlainLines)
    with Progress([sink]).track("Reading") as bar:
        bar.advance(3)
    assert stream.getvalue().startswith("Reading: 3 rows")


def test_logging_goes_to_the_console_once():
    stream = io.StringIO()
    logger = logging.getLogger("difflm")
    before = (logger.handlers[:], logger.level, logger.propagate)
    try:
        setup_logging(Console(file=stream))
        setup_logging(Console(file=stream))
        logging.getLogger("difflm.stage").info("hello %d", 3)
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    assert stream.getvalue() == "INFO hello 3\n"


class Kept:
    """A sink that keeps all that it is told."""

    interval_seconds = 0.0

    def __init__(self):
        self.told = []

    def start(self, report):
        self.told.append(("start", report.description, report.done, report.contents))

    def update(self, report):
        self.told.append(("update", report.done, report.total, dict(report.metrics)))

    def finish(self, report):
        self.told.append(("finish", report.done))

    def event(self, name, values):
        self.told.append((name, values))


def test_what_another_process_reports_is_repeated_here(monkeypatch):
    monkeypatch.setattr(Messages, "interval_seconds", 0.0)
    here = Kept()
    relay = Relay(Progress([here]))
    there = Progress(
        [Messages(lambda kind, values: relay.repeat(kind, json.loads(json.dumps(values))))]
    )
    contents = {"tokens": 64}
    with there.track("Training", 10, "steps", initial=4, contents=contents) as bar:
        bar.advance(3, loss=0.5)
        there.event("evaluation", score=1.5)
        bar.report.total = 8
        bar.advance(1, loss=0.25)
    assert here.told == [
        ("start", "Training", 4, {"tokens": 64}),
        ("update", 7, 10, {"loss": 0.5}),
        ("evaluation", {"score": 1.5}),
        ("update", 8, 8, {"loss": 0.25}),
        ("update", 8, 8, {"loss": 0.25}),
        ("finish", 8),
    ]


def test_a_task_that_begins_again_elsewhere_closes_the_one_before():
    here = Kept()
    relay = Relay(Progress([here]))
    start = {"description": "Training", "total": 10, "unit": "steps", "done": 0, "contents": {}}
    relay.repeat("start", start)
    relay.repeat("start", {**start, "done": 3})
    relay.close()
    assert [told[0] for told in here.told] == ["start", "finish", "start", "finish"]
