"""Rows by the caller's values: only those, exactly as many, and as the model distributes them."""

import datetime
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, ks_2samp

from difflm_core.device import Compute
from difflm_core.errors import ConfigError, StageError
from difflm_core.generation import drawing
from difflm_core.generation.batching import BatchingEngine
from difflm_core.generation.bundle import load_generator
from difflm_core.generation.conditions import Condition, Conditions
from difflm_core.generation.drawing import Drawing, SamplingOptions, Span
from difflm_core.generation.generator import Generator

OPTIONS = SamplingOptions(seed=3, batch_rows=128)
DAY = datetime.date(2020, 6, 1)


def parse(generator, wanted):
    return Conditions.parse(wanted, generator.codec)


def rows(generator, num_rows, wanted, options=OPTIONS, **more):
    options = replace(options, conditions=parse(generator, wanted))
    return pa.Table.from_batches(list(generator.batches(num_rows, options, **more)))


WANTED = {
    "age": ({"min": 30, "max": 40}, lambda v: v is not None and 30 <= v <= 40),
    "job": (["cook", None], lambda v: v in ("cook", None)),
    "pay": ({"min": 300.25}, lambda v: v is not None and v >= 300.25),
    "member": (True, lambda v: v is True),
    "label": ("no", lambda v: v is False),
    "day": ({"max": "2020-12-31"}, lambda v: v <= datetime.date(2020, 12, 31)),
    "joined": (
        {"min": "2020-03-01", "max": "2020-09-30"},
        lambda v: datetime.datetime(2020, 3, 1) <= v < datetime.datetime(2020, 10, 1),
    ),
    "opens": (["06:00", "08:00:00"], lambda v: v in (datetime.time(6), datetime.time(8))),
    "level": ("1|0", lambda v: v == "1|0"),
    "weight": ({"max": 1}, lambda v: v <= 1),
    "visits": ([0, 4.0], lambda v: v in (0, 4)),
    "land": ("Norway", lambda v: v == "Norway"),
}


@pytest.mark.parametrize("name", WANTED)
def test_exactly_as_many_rows_and_only_those_that_match(generator, name):
    wanted, predicate = WANTED[name]
    table = rows(generator, 45, {name: wanted})
    assert table.num_rows == 45
    assert all(predicate(value) for value in table.column(name).to_pylist())
    assert len(set(table.column("person").to_pylist())) == 45


def test_several_columns_are_all_met(generator):
    table = rows(generator, 150, {name: WANTED[name][0] for name in ("age", "job", "member")})
    assert table.num_rows == 150
    for name in ("age", "job", "member"):
        assert all(WANTED[name][1](value) for value in table.column(name).to_pylist())


def test_free_text_is_still_valid(with_text):
    options = SamplingOptions(seed=1, batch_rows=256)
    table = rows(with_text, 30, {"job": "nurse", "label": "yes"}, options)
    assert table.column("job").to_pylist() == ["nurse"] * 30
    assert all(text.strip() for text in table.column("note").to_pylist())


def test_without_conditions_nothing_changes(generator):
    plain = pa.Table.from_batches(list(generator.batches(150, OPTIONS)))
    assert plain.equals(rows(generator, 150, {}))
    alone = pa.Table.from_batches(list(generator.batches(20, OPTIONS)))
    assert rows(generator, 20, {"land": "Norway"}).equals(alone)


@pytest.mark.parametrize("name", ["age", "joined", "job", "visits"])
def test_rows_are_those_of_the_model_that_match(generator, name):
    """Two samples, one filtered, one conditioned, cannot be told apart."""
    wanted, options = {name: WANTED[name][0]}, SamplingOptions(seed=11, batch_rows=1024)
    whole = generator.batches(8192, options)
    conditions = parse(generator, wanted)
    kept = pa.Table.from_batches([batch.filter(conditions.mask(batch)) for batch in whole])
    made = rows(generator, kept.num_rows, wanted, replace(options, seed=12))
    assert kept.num_rows > 500
    for other in ("age", "pay", "joined", "weight"):
        left, right = (
            np.array(
                table.column(other)
                .drop_null()
                .cast(pa.float64() if other in ("pay", "weight") else pa.int64())
            )
            for table in (kept, made)
        )
        assert ks_2samp(left, right).pvalue > 0.002, other
    for other in ("job", "member", "label", "level", "visits"):
        left, right = (table.column(other).to_pylist() for table in (kept, made))
        values = sorted({*left, *right}, key=str)
        counts = [[part.count(value) for value in values] for part in (left, right)]
        assert len(values) == 1 or chi2_contingency(counts).pvalue > 0.002, other


def test_rows_do_not_depend_on_threads_or_on_where_a_shard_begins(generator):
    options = replace(OPTIONS, batch_rows=32)
    wanted = {"age": {"min": 30, "max": 40}, "label": "no"}
    whole = rows(generator, 100, wanted, options, num_threads=1)
    assert whole.equals(rows(generator, 100, wanted, options, num_threads=3))
    assert whole.slice(64).equals(rows(generator, 36, wanted, options, start=64))
    assert not whole.equals(rows(generator, 100, wanted, replace(options, seed=4)))


ASKED = [
    {"age": {"min": 30, "max": 40}},
    {},
    {"visits": 3, "job": "cook"},
    {"job": None},
    {"weight": {"min": 2}, "age": [20, 21, 22]},
    {},
    {"member": False},
]


def asked_spans(generator):
    for index, wanted in enumerate(ASKED):
        options = SamplingOptions(
            seed=index, max_attempts=300, top_p=1 - index / 50, conditions=parse(generator, wanted)
        )
        yield Span(0, 1 + 11 * index, options)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain", "text"])
def test_rows_do_not_depend_on_who_shares_a_batch(model, people_run, precision, kind):
    folder = people_run / "generator" if kind == "text" else Path(model._bundle.uri)
    with_precision = load_generator(folder, Compute(torch.device("cpu"), precision))
    wanted = ASKED if kind == "plain" else [{"age": {"max": 40}}, {}, {"job": [None, "cook"]}]
    spans = [
        Span(
            0, 5 + 9 * k, SamplingOptions(k, max_attempts=300, conditions=parse(with_precision, w))
        )
        for k, w in enumerate(wanted)
    ]
    together = [Drawing(span, with_precision.codec) for span in spans]
    while lacking := [drawing for drawing in together if drawing.num_missing]:
        with_precision.advance(lacking)
    for span, each in zip(spans, together, strict=True):
        alone = with_precision.batches(span.num_rows, span.options)
        assert each.records().equals(next(alone))


def test_callers_with_conditions_share_batches_too(generator):
    engine = BatchingEngine(2)
    spans = list(asked_spans(generator))
    made = [engine.submit(generator, span) for span in spans]
    for span, future in zip(spans, made, strict=True):
        alone = next(generator.batches(span.num_rows, span.options))
        assert future.result(60).records.equals(alone)
    engine.close()


def test_a_search_lets_others_in_between(generator, monkeypatch):
    engine, order = BatchingEngine(1), []
    hopeless = replace(OPTIONS, conditions=impossible(generator))
    search = engine.submit(generator, Span(0, 100, hopeless))
    search.add_done_callback(lambda _: order.append("search"))
    others = [engine.submit(generator, Span(0, 128, replace(OPTIONS, seed=k))) for k in range(3)]
    for future in others:
        future.add_done_callback(lambda _: order.append("other"))
        assert future.result(60).records.num_rows == 128
    with pytest.raises(StageError):
        search.result(60)
    engine.close()
    assert order == ["other"] * 3 + ["search"]


def test_what_was_begun_is_finished_when_the_engine_closes(generator, monkeypatch):
    begun, advance = threading.Event(), Generator.advance

    def noted_advance(*args):
        begun.set()
        advance(*args)

    monkeypatch.setattr(Generator, "advance", noted_advance)
    engine = BatchingEngine(1)
    search = engine.submit(
        generator, Span(0, 9, replace(OPTIONS, conditions=impossible(generator)))
    )
    assert begun.wait(60)
    engine.close()
    with pytest.raises(StageError):
        search.result(1)


# ------------------------------------------------------------------------------ rare conditions


def impossible(generator):
    """Met by no row."""
    never = Condition("age", ranges=((200, 300),), share=0.5)
    return Conditions((*parse(generator, {"member": True}).columns, never))


def test_a_condition_that_no_row_meets_is_one_clear_error(generator):
    options = replace(OPTIONS, batch_rows=1024, conditions=impossible(generator))
    each = Drawing(Span(0, 20, options), generator.codec)
    while each.num_tried < drawing.TELLING_ROWS // 2:
        each.check_attempts()
        generator.advance([each])
    with pytest.raises(StageError) as caught:
        each.check_attempts()
    assert each.num_tried < drawing.TELLING_ROWS // 2 + 1024
    assert str(caught.value) == (
        f"Of {each.num_tried:,} generated rows, none met the conditions on 'member', 'age'; "
        "20 are wanted at a time. Expected at least one in 2,048. Loosen the conditions (a wider "
        "range, more values, fewer columns), or ask for fewer rows."
    )


def test_a_condition_that_hardly_any_row_meets_tells_its_share(generator, monkeypatch):
    monkeypatch.setattr(drawing, "LEAST_SHARE_INVERSE", 2)
    monkeypatch.setattr(drawing, "TELLING_ROWS", 512)
    with pytest.raises(StageError, match=r"^Of 5\d\d generated rows, only \d+ \(0\.\d+ of all\) "):
        rows(generator, 128, {"visits": 3, "member": True})


def test_text_that_is_never_valid_is_not_blamed_on_the_conditions(with_text, monkeypatch):
    monkeypatch.setattr(drawing, "TELLING_ROWS", 64)
    monkeypatch.setattr(
        drawing, "without_unwritable_texts", lambda records, *_: records.slice(0, 0)
    )
    with pytest.raises(StageError, match="generated rows that meet the conditions on 'label'"):
        rows(with_text, 16, {"label": True})


# ---------------------------------------------------------------------------------------- masks

BASE = datetime.datetime(2020, 1, 1)
KINDS = {
    "text": (pa.string(), st.sampled_from(["a", "b", "c", ""])),
    "integer": (pa.int64(), st.integers(-5, 5)),
    "float": (pa.float64(), st.integers(-20, 20).map(lambda n: n / 4)),
    "boolean": (pa.bool_(), st.booleans()),
    "date": (pa.date32(), st.integers(0, 9).map(lambda n: DAY + datetime.timedelta(n))),
    "datetime": (
        pa.timestamp("us"),
        st.integers(0, 9).map(lambda n: BASE + datetime.timedelta(hours=n)),
    ),
    "time": (pa.time64("us"), st.integers(0, 9).map(lambda n: datetime.time(n, 30))),
}


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
def test_a_mask_is_the_plain_predicate(data, kind):
    arrow_type, values = KINDS[kind]
    bounds = st.one_of(st.none(), values)
    columns = []
    for name in "xy":
        chosen = tuple(data.draw(st.lists(values, max_size=3)))
        ranges = data.draw(st.lists(st.tuples(bounds, bounds), max_size=2))
        ranges = tuple(r for r in ranges if kind not in ("text", "boolean") and r != (None, None))
        missing = data.draw(st.booleans()) or not (chosen or ranges)
        columns.append(Condition(name, chosen, ranges, missing))
    nullable = st.lists(st.one_of(st.none(), values), min_size=6, max_size=6)
    cells = {name: data.draw(nullable) for name in "xy"}

    def meets(condition, value):
        if value is None:
            return condition.missing
        return value in condition.values or any(
            (low is None or value >= low) and (high is None or value <= high)
            for low, high in condition.ranges
        )

    records = pa.RecordBatch.from_pydict({n: pa.array(v, arrow_type) for n, v in cells.items()})
    mask = Conditions(tuple(columns)).mask(records)
    assert mask.null_count == 0
    expected = [
        all(meets(c, v) for c, v in zip(columns, row, strict=True))
        for row in zip(*cells.values(), strict=True)
    ]
    assert mask.to_pylist() == expected


def test_conditions_are_values(generator):
    first, second = (parse(generator, {"age": {"min": 30}, "job": ["cook"]}) for _ in range(2))
    assert first == second
    assert len({first, second, Conditions()}) == 2
    assert first
    assert not Conditions()
    assert 0 < first.expected_share < 1


# ---------------------------------------------------------------------------------- interfaces


def test_sample_takes_conditions(model):
    frame = model.sample(25, seed=2, conditions={"job": ["cook", "nurse"], "label": "yes"})
    assert len(frame) == 25
    assert set(frame["job"]) <= {"cook", "nurse"}
    assert set(frame["label"]) == {"yes"}
    same = model.sample(25, seed=2, conditions=["job=cook|nurse", "label=yes"])
    assert frame.equals(same)
    with pytest.raises(ConfigError, match="conditions: column 'jobb' does not exist"):
        model.sample(5, conditions={"jobb": "cook"})


def test_the_command_line_takes_conditions(difflm, model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    where = ("--where", "job=cook|nurse", "--where", "age=30..40")
    code, out, _ = difflm("-q", "sample", "model", "-n", "25", "-o", "out.csv", *where)
    assert (code, out) == (0, "out.csv\n")
    frame = pd.read_csv("out.csv")
    assert len(frame) == 25
    assert set(frame["job"]) <= {"cook", "nurse"}
    assert frame["age"].between(30, 40).all()
    code, out, err = difflm("-q", "sample", "model", "-n", "5", "-o", "o.csv", "--where", "ag=3")
    message = "Error: conditions: column 'ag' does not exist; nearest: 'age'\n"
    assert (code, out, err) == (2, "", message)
    assert not (tmp_path / "o.csv").exists()
