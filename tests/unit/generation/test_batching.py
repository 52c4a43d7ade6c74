"""Many callers share batches; each gets the rows it would get alone, and soon."""

import threading
import time
from concurrent.futures import CancelledError, wait
from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from difflm_core.data.identifiers import IdentifierPattern
from difflm_core.device import Compute
from difflm_core.errors import DataError, StageError
from difflm_core.generation import batching
from difflm_core.generation.batching import BatchingEngine
from difflm_core.generation.bundle import load_generator
from difflm_core.generation.drawing import SamplingOptions, Span, spans
from difflm_core.generation.generator import Generator

OPTIONS = SamplingOptions(seed=3, max_attempts=300)


@pytest.fixture(scope="module")
def generator(people_run):
    return load_generator(people_run / "generator", Compute(torch.device("cpu")))


@pytest.fixture
def engine():
    engine = BatchingEngine(2)
    yield engine
    engine.close()


class Slow:
    """Lets batches begin only when told to, and notes what is in them."""

    def __init__(self, monkeypatch):
        self.batches, self.gate, self.begun = [], threading.Semaphore(0), threading.Semaphore(0)
        advance = Generator.advance

        def slow_advance(generator, drawings, between_slots=None):
            self.batches.append([drawing.span.num_rows for drawing in drawings])
            self.begun.release()
            self.gate.acquire()
            advance(generator, drawings, between_slots)

        monkeypatch.setattr(Generator, "advance", slow_advance)

    def open(self):
        for _ in range(1000):
            self.gate.release()


def test_many_callers_get_the_rows_they_would_get_alone(generator, engine):
    asked = [Span(0, 1 + 13 * k % 50, replace(OPTIONS, seed=k)) for k in range(20)]
    made = [engine.submit(generator, span) for span in asked]
    for span, future in zip(asked, made, strict=True):
        alone = next(generator.batches(span.num_rows, span.options))
        assert future.result(60).records.equals(alone)


def test_spans_are_those_of_one_large_table(generator, engine):
    options = replace(OPTIONS, batch_rows=30)
    made = [engine.submit(generator, span) for span in spans(100, options)]
    table = pa.Table.from_batches([future.result(60).records for future in made])
    assert table.equals(pa.Table.from_batches(list(generator.batches(100, options))))
    assert sum(future.result().rejections.total() for future in made) > 0


def test_waiting_rows_share_a_batch_within_its_size(generator, monkeypatch):
    monkeypatch.setattr(batching, "MAX_BATCH_ROWS", 100)
    monkeypatch.setattr(batching, "MIN_BATCH_ROWS", 10)
    slow, engine = Slow(monkeypatch), BatchingEngine(1)
    first = engine.submit(generator, Span(0, 5, OPTIONS))
    slow.begun.acquire(timeout=10)
    sizes = [50, 30, 10, 60, 100, 4]
    others = [engine.submit(generator, Span(0, size, OPTIONS)) for size in sizes]
    assert engine.num_waiting_rows == sum(sizes)
    slow.open()
    assert all(f.result(120).records.num_rows == n for f, n in zip(others, sizes, strict=True))
    assert first.result().shared_rows == 5
    # What the first lacked after its batch may be in this one.
    assert 50 + 30 + 10 + 4 <= others[0].result().shared_rows <= 100
    assert others[0].result().shared_rows == others[5].result().shared_rows
    # Neither 60 nor 100 more rows fit into it. Later the 60 may stand beside up to 40 rows that
    # the others lacked; the 100 fill a batch.
    assert set(slow.batches[1]) - {5} == {50, 30, 10, 4}
    assert 60 <= others[3].result().shared_rows <= 100
    assert others[4].result().shared_rows == 100
    engine.close()


@pytest.mark.parametrize(
    ("patience_seconds", "expected"), [(2.0, "newcomer"), (0.05, "large table")]
)
def test_who_had_many_rows_lets_newcomers_go_first_for_a_while(
    generator, monkeypatch, patience_seconds, expected
):
    monkeypatch.setattr(batching, "MAX_PATIENCE_SECONDS", patience_seconds)
    monkeypatch.setattr(batching, "MAX_BATCH_ROWS", 40)
    slow, engine = Slow(monkeypatch), BatchingEngine(1)
    engine.submit(generator, Span(0, 5, OPTIONS))
    slow.begun.acquire(timeout=10)
    large = engine.submit(generator, Span(0, 40, OPTIONS), served_rows=10**9)
    time.sleep(0.1)
    newcomer = engine.submit(generator, Span(0, 39, OPTIONS))
    slow.open()
    wait([large, newcomer], timeout=60)
    engine.close()
    begun = [size for batch in slow.batches for size in batch if size in (40, 39)]
    assert {40: "large table", 39: "newcomer"}[begun[0]] == expected


def test_a_few_rows_pass_in_the_middle_of_a_large_batch(generator, monkeypatch):
    engine, small = BatchingEngine(1), []
    advance = Generator.advance

    def advance_and_ask(self, drawings, between_slots=None):
        if between_slots is not None and not small:
            small.append(engine.submit(generator, Span(0, 3, OPTIONS)))
        advance(self, drawings, between_slots)
        if between_slots is not None:
            # Its first batch is over before that of the large one is.
            assert small[0].done() or engine.num_waiting_rows < 3

    monkeypatch.setattr(Generator, "advance", advance_and_ask)
    assert engine.submit(generator, Span(0, 120, OPTIONS)).result(60).records.num_rows == 120
    alone = next(generator.batches(3, OPTIONS))
    assert small[0].result(60).records.equals(alone)
    engine.close()


def test_nothing_more_is_made_of_what_is_cancelled(generator, monkeypatch):
    slow, engine = Slow(monkeypatch), BatchingEngine(1)
    begun = engine.submit(generator, Span(0, 35, OPTIONS))
    slow.begun.acquire(timeout=10)
    waiting = engine.submit(generator, Span(0, 7, OPTIONS))
    kept = engine.submit(generator, Span(0, 9, OPTIONS))
    assert waiting.cancel()
    assert begun.cancel()
    slow.open()
    kept.result(60)
    # The batch that was under way ended; what it rejected of the first span was not tried again.
    assert slow.batches[:2] == [[35], [9]]
    assert not any({35, 7} & set(batch) for batch in slow.batches[1:])
    engine.close()


def test_one_callers_failure_is_not_the_others(generator, engine):
    hopeless = engine.submit(generator, Span(0, 60, replace(OPTIONS, max_attempts=1)))
    fine = engine.submit(generator, Span(0, 60, OPTIONS))
    with pytest.raises(StageError, match="rejected 1 times each"):
        hopeless.result(60)
    assert fine.result(60).records.num_rows == 60


def test_a_defect_reaches_its_callers_and_the_engine_goes_on(generator, engine, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(generator.codec, "decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.submit(generator, Span(0, 5, OPTIONS)).result(60)
    assert engine.submit(generator, Span(0, 5, OPTIONS)).result(60).records.num_rows == 5


def test_more_rows_than_identifiers_is_refused_at_once(generator, engine, monkeypatch):
    monkeypatch.setattr(generator.codec, "identifiers", {"c": IdentifierPattern.parse("C[0-9]")})
    with pytest.raises(DataError, match="10"):
        engine.submit(generator, Span(0, 11, OPTIONS))


def test_generators_take_turns(people_run, generator, engine):
    other = load_generator(people_run / "generator", Compute(torch.device("cpu")))
    made = [engine.submit((generator, other)[k % 2], Span(0, 50, OPTIONS)) for k in range(10)]
    first = made[0].result(60).records
    assert all(future.result(60).records.equals(first) for future in made)


def test_closing_cancels_what_waits_and_restores_threads(generator, monkeypatch):
    before = torch.get_num_threads()
    slow, engine = Slow(monkeypatch), BatchingEngine(1)
    begun = engine.submit(generator, Span(0, 5, OPTIONS))
    slow.begun.acquire(timeout=10)
    waiting = engine.submit(generator, Span(0, 5, OPTIONS))
    slow.open()
    engine.close()
    with pytest.raises(CancelledError):
        waiting.result(1)
    assert begun.done()
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(generator, Span(0, 5, OPTIONS))
