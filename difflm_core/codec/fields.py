"""How each column is written as slots of tokens.

`RankField` covers every kind with a closed or ordered set of values. Its first token is either
missing, one whole value (every category, every value of a low-cardinality number, and any value
that carries much of the mass), or the most significant digit of the value's rank among the rest;
the further digits follow in their own slots. `TextField` spells free text in byte-level BPE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from difflm_core.codec.grammar import Slot
from difflm_core.codec.numbers import NumberForm
from difflm_core.codec.ranks import RankTransform
from difflm_core.data.schema import Column
from difflm_core.errors import DataError

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CodecOptions:
    """How finely columns are written.

    Attributes:
        digit_base: Number of symbols of a rank digit.
        num_digits: Rank digits of a number; its resolution is `digit_base ** num_digits` cells.
        max_value_tokens: A number with at most this many distinct values has one token per value.
        max_category_tokens: The same for categories.
        frequent_mass: A value with more than this share of the rows has its own token.
        max_text_tokens: Longest free text, in tokens; longer text is cut.
        text_vocab_size: Vocabulary of the byte-level BPE of a free-text column.
    """

    digit_base: int = 64
    num_digits: int = 2
    max_value_tokens: int = 64
    max_category_tokens: int = 512
    frequent_mass: float = 1 / 128
    max_text_tokens: int = 128
    text_vocab_size: int = 512


@dataclass(frozen=True)
class RankField:
    """A column with a closed or ordered set of values.

    Tokens of the first slot, from `start`: missing (if `nullable`), the whole values, the digits.

    Attributes:
        form: The column's values as numbers.
        nullable: Whether there is a missing token.
        whole: Values with their own token, ascending, shape [H].
        ranks: Distribution of all other values; None when there are none.
        base: Symbols per digit.
        num_digits: Digits per rank.
        order: Relative position in [0, 1] of each token of the first slot in the column's
            distribution, NaN where there is none.
    """

    form: NumberForm
    nullable: bool
    whole: npt.NDArray[Any]
    ranks: RankTransform | None
    base: int
    num_digits: int
    order: Floats

    @classmethod
    def fit(cls, column: Column, values: pa.Array, options: CodecOptions) -> RankField:
        """Choose the tokens of `column` from a sample of its canonical `values`."""
        nullable = column.nullable or values.null_count > 0
        form = NumberForm.fit(column, values.drop_null())
        numbers = form.to_numbers(values.drop_null())
        distinct, counts = np.unique(numbers, return_counts=True)
        limit = options.max_category_tokens if form.is_listed else options.max_value_tokens
        if distinct.size <= limit:
            whole, rest = distinct, numbers[:0]
        else:
            whole = distinct[counts > options.frequent_mass * len(values)]
            rest = numbers[~np.isin(numbers, whole)]
        ranks = RankTransform.fit(rest) if rest.size else None
        num_digits = options.num_digits
        if form.is_listed:  # no two categories share a cell for want of digits
            num_digits = max(
                1, int(np.ceil(np.log(distinct.size + 1) / np.log(options.digit_base)))
            )
        field = cls(form, nullable, whole, ranks, options.digit_base, num_digits, np.empty(0))
        return cls(**{**field.__dict__, "order": field._token_order(numbers)})

    @property
    def column(self) -> Column:
        """The column."""
        return self.form.column

    @property
    def num_residuals(self) -> int:
        """Number of residuals per record: one when ranks are cut into cells."""
        return int(self.ranks is not None)

    @property
    def first_size(self) -> int:
        """Number of tokens of the first slot."""
        return int(self.nullable) + self.whole.size + (self.base if self.ranks else 0)

    def _token_order(self, numbers: npt.NDArray[Any]) -> Floats:
        order = np.full(self.first_size, np.nan)
        if not self.form.is_ordered or not numbers.size:
            return order
        values = self.whole
        if self.ranks:
            cells_per_digit = self.base ** (self.num_digits - 1)
            cell = np.arange(self.base) * cells_per_digit + cells_per_digit // 2
            middle = self.ranks.value(cell, np.zeros(self.base), self.base**self.num_digits)
            values = np.concatenate([values, middle])
        ascending = np.sort(numbers)
        below = np.searchsorted(ascending, values, side="left")
        upto = np.searchsorted(ascending, values, side="right")
        order[int(self.nullable) :] = (below + upto) / (2 * numbers.size)
        return order

    def slots(self, start: int) -> list[Slot]:
        """Slots of this field when its token ids begin at `start`."""
        slots = [Slot(start, start + self.first_size)]
        if self.ranks:
            digits = (slots[0].stop - self.base, slots[0].stop)
            for _ in range(self.num_digits - 1):
                begin = slots[-1].stop + (slots[-1].idle is not None)
                slot = Slot(begin, begin + self.base, gate=digits, idle=begin + self.base)
                slots.append(slot)
                digits = (slot.start, slot.stop)
        return slots

    def vocab_order(self) -> Floats:
        """Relative position of every token id of this field, shape [V]; NaN: unordered."""
        fine = np.append((np.arange(self.base) + 0.5) / self.base, np.nan)
        extra = self.num_digits - 1 if self.ranks else 0
        return np.concatenate([self.order, *[fine] * extra])

    def encode(
        self, values: pa.Array, slots: list[Slot], generator: np.random.Generator
    ) -> tuple[Ids, Floats]:
        """Token ids [B, T] and residuals [B, num_residuals] of canonical `values`."""
        missing = values.is_null().to_numpy(zero_copy_only=False)
        if missing.any() and not self.nullable:
            raise DataError(
                f"Column {self.column.name!r} has {int(missing.sum())} missing values, but its "
                "schema says nullable: false. Declare it nullable, or fill the values in."
            )
        ids = np.empty((len(values), len(slots)), dtype=np.int64)
        ids[:, 0] = slots[0].start
        for k, slot in enumerate(slots[1:], start=1):
            ids[:, k] = -1 if slot.idle is None else slot.idle
        residuals = np.zeros((len(values), self.num_residuals))
        numbers = self.form.to_numbers(values.drop_null())
        present = np.flatnonzero(~missing)
        begin = slots[0].start + int(self.nullable)
        nearest = self._nearest_whole(numbers)
        ids[present, 0] = begin + nearest
        if self.ranks:
            is_rest = np.ones(numbers.size, dtype=bool)
            if self.whole.size:
                is_rest = self.whole[nearest] != numbers
            cell, residual = self.ranks.rank(
                numbers[is_rest], self.base**self.num_digits, generator
            )
            rows = present[is_rest]
            residuals[rows, 0] = residual
            for k in range(self.num_digits - 1, -1, -1):
                offset = slots[k].start if k else begin + self.whole.size
                ids[rows, k] = offset + cell % self.base
                cell = cell // self.base
        return ids, residuals

    def _nearest_whole(self, numbers: npt.NDArray[Any]) -> Ids:
        if not self.whole.size:
            return np.zeros(numbers.size, dtype=np.int64)
        right = np.clip(np.searchsorted(self.whole, numbers), 0, self.whole.size - 1)
        left = np.maximum(right - 1, 0)
        closer = np.abs(numbers - self.whole[left]) < np.abs(self.whole[right] - numbers)
        return np.where(closer, left, right)

    def decode(self, ids: Ids, slots: list[Slot], residuals: Floats) -> tuple[pa.Array, Mask, str]:
        """Canonical values of token ids [B, T]; none is ever rejected."""
        token = ids[:, 0] - slots[0].start - int(self.nullable)
        missing = token < 0
        is_rest = token >= self.whole.size
        dtype = self.ranks.low.dtype if self.ranks else self.whole.dtype
        numbers = np.zeros(len(ids), dtype=dtype)
        chosen = ~missing & ~is_rest
        numbers[chosen] = self.whole[token[chosen]]
        if self.ranks and is_rest.any():
            cell = token[is_rest] - self.whole.size
            for k in range(1, self.num_digits):
                cell = cell * self.base + ids[is_rest, k] - slots[k].start
            cells = self.base**self.num_digits
            numbers[is_rest] = self.ranks.value(cell, residuals[is_rest, 0], cells)
        valid = np.ones(len(ids), dtype=bool)
        return self.form.from_numbers(numbers, missing), valid, ""

    def to_json(self) -> dict[str, Any]:
        """JSON part of the saved form."""
        return {
            "type": "rank",
            "form": self.form.to_json(),
            "nullable": self.nullable,
            "has_ranks": self.ranks is not None,
            "base": self.base,
            "num_digits": self.num_digits,
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Array part of the saved form."""
        arrays: dict[str, npt.NDArray[Any]] = {"whole": self.whole, "order": self.order}
        if self.ranks:
            arrays |= {"low": self.ranks.low, "high": self.ranks.high, "edges": self.ranks.edges}
        return arrays

    @classmethod
    def load(
        cls, column: Column, data: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> RankField:
        """Inverse of `to_json` and `arrays`."""
        ranks = None
        if data["has_ranks"]:
            ranks = RankTransform(arrays["low"], arrays["high"], arrays["edges"])
        form = NumberForm.from_json(column, data["form"])
        whole, order = arrays["whole"], arrays["order"]
        return cls(form, data["nullable"], whole, ranks, data["base"], data["num_digits"], order)


@dataclass(frozen=True)
class TextField:
    """A free-text column, spelled in byte-level BPE, one slot per token up to the longest seen.

    Token ids from `start`: missing (if `nullable`), the BPE vocabulary, end, idle.
    """

    column: Column
    nullable: bool
    tokenizer: Tokenizer
    num_slots: int

    num_residuals = 0

    @classmethod
    def fit(cls, column: Column, values: pa.Array, options: CodecOptions) -> TextField:
        """Train the tokenizer of `column` on a sample of its canonical `values`."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        texts: list[str] = values.drop_null().to_pylist()
        trainer = trainers.BpeTrainer(
            vocab_size=max(options.text_vocab_size, 256),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        longest = max((len(e.ids) for e in tokenizer.encode_batch_fast(texts)), default=0)
        nullable = column.nullable or values.null_count > 0
        return cls(column, nullable, tokenizer, min(longest, options.max_text_tokens) + 1)

    @property
    def vocab_size(self) -> int:
        """Size of the BPE vocabulary."""
        return self.tokenizer.get_vocab_size()

    def slots(self, start: int) -> list[Slot]:
        """Slots of this field when its token ids begin at `start`."""
        begin = start + int(self.nullable)
        end = begin + self.vocab_size
        more = Slot(begin, end + 1, gate=(begin, end), idle=end + 1)
        # The last slot can only hold the end: every text fits, or has been cut.
        last = Slot(end, end + 1, gate=(begin, end), idle=end + 1)
        if self.num_slots == 1:
            return [Slot(start, start + 1) if self.nullable else Slot(end, end + 1)]
        return [Slot(start, end + 1), *[more] * (self.num_slots - 2), last]

    def vocab_order(self) -> Floats:
        """Text tokens have no order."""
        return np.full(int(self.nullable) + self.vocab_size + 2, np.nan)

    def encode(
        self, values: pa.Array, slots: list[Slot], generator: np.random.Generator
    ) -> tuple[Ids, Floats]:
        """Token ids [B, T] of canonical `values`; there are no residuals."""
        del generator
        begin = slots[0].start + int(self.nullable)
        end = slots[-1].stop - 1
        ids = np.full((len(values), len(slots)), end + 1, dtype=np.int64)
        texts: list[str | None] = values.to_pylist()
        encodings = self.tokenizer.encode_batch_fast(["" if t is None else t for t in texts])
        for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
            if text is None:
                ids[row, 0] = slots[0].start
                continue
            tokens = encoding.ids[: len(slots) - 1]
            ids[row, : len(tokens)] = np.asarray(tokens, dtype=np.int64) + begin
            ids[row, len(tokens)] = end
        return ids, np.zeros((len(values), 0))

    def decode(self, ids: Ids, slots: list[Slot], residuals: Floats) -> tuple[pa.Array, Mask, str]:
        """Canonical texts of token ids [B, T]; bytes that are not UTF-8 are rejected."""
        del residuals
        begin = slots[0].start + int(self.nullable)
        end = slots[-1].stop - 1
        is_end = (ids == end) | (ids == end + 1)
        lengths = np.where(is_end.any(axis=1), is_end.argmax(axis=1), ids.shape[1])
        tokens = [(row[:length] - begin).tolist() for row, length in zip(ids, lengths, strict=True)]
        missing = ids[:, 0] == slots[0].start if self.nullable else np.zeros(len(ids), dtype=bool)
        texts = self.tokenizer.decode_batch(
            [[] if m else t for t, m in zip(tokens, missing, strict=True)]
        )
        valid = np.array(["\N{REPLACEMENT CHARACTER}" not in text for text in texts], dtype=bool)
        return pa.array(texts, pa.string(), mask=missing), valid, "not valid UTF-8"

    def to_json(self) -> dict[str, Any]:
        """Saved form."""
        return {
            "type": "text",
            "nullable": self.nullable,
            "num_slots": self.num_slots,
            "tokenizer": self.tokenizer.to_str(),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Text needs no arrays."""
        return {}

    @classmethod
    def load(
        cls, column: Column, data: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> TextField:
        """Inverse of `to_json`."""
        del arrays
        return cls(
            column, data["nullable"], Tokenizer.from_str(data["tokenizer"]), data["num_slots"]
        )


Field = RankField | TextField
