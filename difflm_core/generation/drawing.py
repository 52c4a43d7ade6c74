"""A span of rows on its way: attempts, until each row is accepted.

An attempt is a pure function of the seed, of the span's first row, of its number and of what the
earlier ones gave. So rows do not depend on who shares a batch with them (`batching.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module
import torch

from difflm_core.codec.records import RecordCodec
from difflm_core.codec.text_field import TextField
from difflm_core.data.canonical import spells_missing
from difflm_core.data.schema import ColumnKind, Schema
from difflm_core.errors import StageError
from difflm_core.generation.conditions import Condition, Conditions
from difflm_core.generation.decode import DrawnTokens, TokenDraw
from difflm_core.seeds import numpy_generator, seed_of

pc: Any = pc_module

# Reasons to reject a text: in a file it would mean "missing", or make the file look binary.
BLANK = "blank, or a spelling of missing"
ZERO_BYTE = "holds a zero byte"
Rejections = Counter[tuple[str, str]]

# Conditions are given up when fewer than one in `LEAST_SHARE_INVERSE` rows meets them ...
LEAST_SHARE_INVERSE = 2048
# ... of so many rows, which tell; or none at all of half as many.
TELLING_ROWS = 16_384
# What is known of the share of rows that meet the conditions before any is drawn weighs like so
# many rows.
PRIOR_ROWS = 32
# Smaller batches are hardly faster.
MIN_CONDITIONED_ROWS = 16


@dataclass(frozen=True)
class SamplingOptions:
    """How freely records are drawn.

    Attributes:
        seed: Seed of the run.
        temperature: Softmax temperature of every token.
        top_p: Probability mass kept at every token.
        batch_rows: Records decoded at once.
        max_attempts: Most tries for a record that the codec rejects; with conditions, their own
            limits count instead (`Drawing.check_attempts`).
        conditions: What every row must meet; rows that do not are drawn again.
    """

    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    batch_rows: int = 1024
    max_attempts: int = 16
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True)
class Span:
    """Rows `begin .. end - 1` of the table of a seed, drawn together.

    Attributes:
        begin: Index of the first row; a multiple of `options.batch_rows`.
        end: Index after the last row; at most `options.batch_rows` after `begin`.
        options: How freely.
    """

    begin: int
    end: int
    options: SamplingOptions

    @property
    def num_rows(self) -> int:
        """How many."""
        return self.end - self.begin


def spans(num_rows: int, options: SamplingOptions, *, start: int = 0) -> Iterator[Span]:
    """Cut the rows `start .. start + num_rows - 1` of a table into spans.

    Args:
        num_rows: How many.
        options: How freely.
        start: Index of the first row; a multiple of `batch_rows`, so that the spans are those of
            the whole table.
    """
    stop = start + num_rows
    for begin in range(start, stop, options.batch_rows):
        yield Span(begin, min(begin + options.batch_rows, stop), options)


class ConditionSieve:
    """Drops rows that do not meet conditions as soon as the last token of a column says so.

    Tokens of the rows that are left are drawn from the same distributions as before: dropping
    never changes what follows for a row, so it is rejection, only earlier.
    """

    def __init__(
        self,
        codec: RecordCodec,
        conditions: Conditions,
        residuals_BF: npt.NDArray[np.float64],
        max_rows: int | None,
    ) -> None:
        """Prepare for one attempt.

        Args:
            codec: Decodes the columns.
            conditions: At least one.
            residuals_BF: Residuals of the attempt's rows.
            max_rows: Of the rows that meet all conditions, only the first ones are of use; None:
                all are.
        """
        self._codec = codec
        self._residuals_BF = residuals_BF
        self._max_rows = max_rows
        self._conditions: dict[int, Condition] = {
            codec.last_slot(condition.name): condition for condition in conditions.columns
        }
        self.slots = frozenset(self._conditions)

    def keeps(
        self, slot: int, ids_RT: npt.NDArray[np.int64], rows_R: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.bool_]:
        """Which rows go on after `slot`, shape [R].

        Args:
            slot: The last one of a column that has a condition.
            ids_RT: Token ids of the rows that are left.
            rows_R: Their places among the rows of the attempt.
        """
        condition = self._conditions[slot]
        values = self._codec.decode_column(condition.name, ids_RT, self._residuals_BF[rows_R])
        kept: npt.NDArray[np.bool_] = condition.mask(values).to_numpy(zero_copy_only=False)
        if slot == max(self.slots) and self._max_rows is not None:
            kept = kept & (np.cumsum(kept) <= self._max_rows)
        return kept


@dataclass(frozen=True)
class Attempt:
    """A try at the rows that a drawing lacks.

    Attributes:
        draw: Draws their tokens.
        noise_seed: Seed of their latents.
        first: Index of the first row's latent.
        residuals_BF: Positions inside cells.
    """

    draw: TokenDraw
    noise_seed: int
    first: int
    residuals_BF: npt.NDArray[np.float64]


class Drawing:
    """A span on its way: attempts until every row is accepted.

    Attributes:
        span: What is drawn.
        num_missing: Rows still lacking.
        rejections: Tries rejected so far, by column and reason; not those that did not meet the
            conditions.
        num_tried: Rows drawn so far.
    """

    def __init__(self, span: Span, codec: RecordCodec) -> None:
        """Begin `span`."""
        self.span = span
        self.num_missing = span.num_rows
        self.rejections: Rejections = Counter()
        self.num_tried = 0
        self._codec = codec
        self._parts: list[pa.RecordBatch] = []
        self._num_attempts = 0
        self._num_met = 0

    @property
    def next_rows(self) -> int:
        """How many rows the next attempt draws.

        Without conditions, as many as lack. With conditions, about as many as it takes to find
        those, by the share that was accepted so far; at most `batch_rows`.
        """
        options, num_missing = self.span.options, self.num_missing
        if not options.conditions:
            return num_missing
        num_accepted = self.span.num_rows - num_missing
        expected = PRIOR_ROWS * options.conditions.expected_share
        share = (num_accepted + expected) / (self.num_tried + PRIOR_ROWS)
        # A standard deviation more than needed: another attempt costs more than a few rows.
        aim = num_missing + math.sqrt(num_missing)
        most = max(options.batch_rows, num_missing)
        if aim >= share * most:
            return most
        return min(most, max(MIN_CONDITIONED_ROWS, math.ceil(aim / share)))

    def check_attempts(self) -> None:
        """Check that there may be another attempt.

        Raises:
            StageError: there were `max_attempts` already; or hardly any row meets the conditions.
        """
        if self.span.options.conditions:
            self._check_share()
            return
        if self._num_attempts < self.span.options.max_attempts:
            return
        raise StageError(
            f"{self.num_missing} records were rejected {self._num_attempts} times each "
            f"({self._worst()}). "
            "Train longer, lower the temperature, or raise max_attempts."
        )

    def _check_share(self) -> None:
        num_accepted = self.span.num_rows - self.num_missing
        if num_accepted == 0:
            hopeless = self.num_tried >= TELLING_ROWS // 2
        else:
            few = num_accepted * LEAST_SHARE_INVERSE < self.num_tried
            hopeless = few and self.num_tried >= TELLING_ROWS
        if not hopeless:
            return
        wanted = self.span.num_rows
        names = ", ".join(repr(c.name) for c in self.span.options.conditions.columns)
        if self._num_met * LEAST_SHARE_INVERSE >= self.num_tried:  # the codec is to blame
            raise StageError(
                f"Of {self._num_met:,} generated rows that meet the conditions on {names}, only "
                f"{num_accepted:,} were valid, {wanted:,} are wanted ({self._worst()}). Train "
                "longer, lower the temperature, or ask for fewer rows."
            )
        found = f"only {self._num_met:,}" if self._num_met else "none"
        share = f" ({self._num_met / self.num_tried:.2g} of all)" if self._num_met else ""
        raise StageError(
            f"Of {self.num_tried:,} generated rows, {found}{share} met the conditions on {names}; "
            f"{wanted:,} are wanted at a time. Expected at least one in {LEAST_SHARE_INVERSE:,}. "
            "Loosen the conditions (a wider range, more values, fewer columns), or ask for fewer "
            "rows."
        )

    def _worst(self) -> str:
        return ", ".join(
            f"{name!r}: {why} ({n})" for (name, why), n in self.rejections.most_common(3)
        )

    def next_attempt(self) -> Attempt:
        """What to draw now: a function of the span and of what the attempts before it gave."""
        options = self.span.options
        num_rows, number = self.next_rows, self._num_attempts
        self._num_attempts += 1
        place = (self.span.begin, number)
        generator = torch.Generator().manual_seed(seed_of(options.seed, "rows", *place))
        residuals = numpy_generator(options.seed, "residuals", *place)
        residuals_BF = residuals.random((num_rows, self._codec.num_residuals))
        sieve = None
        if options.conditions:
            can_reject = any(isinstance(f, TextField) for f in self._codec.fields.values())
            max_rows = None if can_reject else self.num_missing
            sieve = ConditionSieve(self._codec, options.conditions, residuals_BF, max_rows)
        # A first attempt takes the table's latents; what was rejected, others.
        latent = () if number == 0 else place
        return Attempt(
            TokenDraw(num_rows, generator, options.temperature, options.top_p, sieve),
            noise_seed=seed_of(options.seed, "latents", *latent),
            first=self.span.begin if number == 0 else 0,
            residuals_BF=residuals_BF,
        )

    def take(self, drawn: DrawnTokens, attempt: Attempt) -> None:
        """Keep what is acceptable of an attempt's tokens."""
        self.num_tried += attempt.draw.num_rows
        self._num_met += len(drawn.rows_R)
        decoded = self._codec.decode(drawn.ids_RT, attempt.residuals_BF[drawn.rows_R])
        self.rejections.update(decoded.rejections)
        records = without_unwritable_texts(decoded.records, self._codec.schema, self.rejections)
        # With conditions, there may be more than are of use.
        records = records.slice(0, self.num_missing)
        self._parts.append(records)
        self.num_missing -= records.num_rows

    def records(self) -> pa.RecordBatch:
        """All rows of the span, once none is missing."""
        records = pa.Table.from_batches(self._parts).combine_chunks().to_batches()[0]
        seed = self.span.options.seed
        return self._codec.with_identifiers(records, start=self.span.begin, seed=seed)


def without_unwritable_texts(
    records: pa.RecordBatch, schema: Schema, rejections: Rejections
) -> pa.RecordBatch:
    """Leave out records whose free text would not be read back as it is; count them."""
    for column in schema.columns:
        if column.kind is not ColumnKind.TEXT:
            continue
        for reason in (BLANK, ZERO_BYTE):
            texts = records.column(column.name)
            if reason == BLANK:
                mask = spells_missing(pc.utf8_trim_whitespace(texts), column)
            else:
                mask = pc.match_substring(texts, "\0")
            bad = pc.fill_null(mask, False)
            if count := pc.sum(bad).as_py():
                rejections[column.name, reason] += count
                records = records.filter(pc.invert(bad))
    return records
