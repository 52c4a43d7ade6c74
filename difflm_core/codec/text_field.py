"""Free text inside a record: byte-level BPE, one slot per token up to the longest text seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from difflm_core.codec.fields import CodecOptions, Floats, Ids, Mask, find_missing
from difflm_core.codec.grammar import Slot
from difflm_core.data.schema import Column

NOT_UTF8 = "not valid UTF-8"
# Texts in Python's own form are many times larger than in Arrow's: few are held at a time.
TEXTS_AT_ONCE = 8192


@dataclass(frozen=True)
class TextField:
    """A free-text column.

    Token ids from `start`: missing (if `nullable`), end, the BPE vocabulary, idle.

    Attributes:
        column: The column.
        nullable: Whether there is a missing token.
        tokenizer: Byte-level BPE; it spells any text.
        num_slots: Slots, one more than the longest text has tokens.
    """

    column: Column
    nullable: bool
    tokenizer: Tokenizer
    num_slots: int

    @classmethod
    def fit(cls, column: Column, values: pa.Array, options: CodecOptions) -> TextField:
        """Train the tokenizer of `column` on a sample of its canonical `values`."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        present = values.drop_null()
        trainer = trainers.BpeTrainer(
            vocab_size=max(options.text_vocab_size, 256),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_lists(present), trainer)
        lengths = (
            len(encoding.ids)
            for texts in _lists(present)
            for encoding in tokenizer.encode_batch_fast(texts)
        )
        longest = max(lengths, default=0)
        nullable = column.nullable or values.null_count > 0
        return cls(column, nullable, tokenizer, min(longest, options.max_text_tokens) + 1)

    @property
    def num_residuals(self) -> int:
        """None: text is spelled out."""
        return 0

    @property
    def vocab_size(self) -> int:
        """Size of the BPE vocabulary."""
        return self.tokenizer.get_vocab_size()

    @cached_property
    def _pieces(self) -> list[bytes]:
        """Bytes of each token of the vocabulary."""
        byte_of = _byte_alphabet()
        tokens = (self.tokenizer.id_to_token(index) for index in range(self.vocab_size))
        return [bytes(byte_of[char] for char in token or "") for token in tokens]

    def slots(self, start: int) -> list[Slot]:
        """Slots of this field when its token ids begin at `start`."""
        end = start + int(self.nullable)
        vocab = (end + 1, end + 1 + self.vocab_size)
        if self.num_slots == 1:
            return [Slot(start, end + 1)]
        more = Slot(end, vocab[1], gate=vocab, idle=vocab[1])
        # The last slot can only hold the end: every text fits, or has been cut.
        last = Slot(end, end + 1, gate=vocab, idle=vocab[1])
        return [Slot(start, vocab[1]), *[more] * (self.num_slots - 2), last]

    def vocab_order(self) -> Floats:
        """Text tokens have no order."""
        return np.full(int(self.nullable) + self.vocab_size + 2, np.nan)

    def encode(
        self, values: pa.Array, slots: list[Slot], generator: np.random.Generator
    ) -> tuple[Ids, Floats]:
        """Token ids [B, T] of canonical `values`; there are no residuals.

        A text of too many tokens is cut after its last whole character that fits.

        Raises:
            DataError: a text is missing that may not be.
        """
        del generator
        missing = find_missing(values, column=self.column.name, nullable=self.nullable)
        end = slots[0].start + int(self.nullable)
        idle = end + 1 + self.vocab_size
        position = np.arange(len(slots))
        ids = np.full((len(values), len(slots)), idle, dtype=np.int64)
        first = 0
        for texts in _lists(values.fill_null("")):
            rows = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
            for row, tokens in enumerate(rows):
                if len(tokens) >= len(slots):
                    rows[row] = self._cut(tokens, len(slots) - 1)
            lengths = np.array([len(tokens) for tokens in rows], dtype=np.int64)
            flat = np.fromiter(chain.from_iterable(rows), np.int64, count=int(lengths.sum()))
            part = ids[first : first + len(rows)]
            part[position < lengths[:, None]] = end + 1 + flat
            part[position == lengths[:, None]] = end
            first += len(rows)
        ids[missing, 0] = slots[0].start
        return ids, np.zeros((len(values), 0))

    def _cut(self, tokens: list[int], length: int) -> list[int]:
        tokens = tokens[:length]
        while tokens and _text(b"".join(self._pieces[token] for token in tokens)) is None:
            tokens.pop()
        return tokens

    def decode(self, ids: Ids, slots: list[Slot], residuals: Floats) -> tuple[pa.Array, Mask, str]:
        """Canonical texts of token ids [B, T]; bytes that are not UTF-8 are rejected."""
        del residuals
        end = slots[0].start + int(self.nullable)
        begin, idle = end + 1, end + 1 + self.vocab_size
        pieces = self._pieces
        outside = (ids < begin) | (ids >= idle)
        lengths = np.where(outside.any(axis=1), outside.argmax(axis=1), ids.shape[1]).tolist()
        missing = ids[:, 0] < end
        texts = [
            _text(b"".join(pieces[token] for token in row[:length]))
            for row, length in zip((ids - begin).tolist(), lengths, strict=True)
        ]
        valid = np.array([text is not None for text in texts], dtype=bool)
        return pa.array(texts, pa.string(), mask=missing), valid, NOT_UTF8

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
        tokenizer = Tokenizer.from_str(data["tokenizer"])
        return cls(column, data["nullable"], tokenizer, data["num_slots"])


def _lists(values: pa.Array) -> Iterator[list[str]]:
    """Texts as Python's, some at a time."""
    for start in range(0, len(values), TEXTS_AT_ONCE):
        yield values.slice(start, TEXTS_AT_ONCE).to_pylist()


def _text(spelled: bytes) -> str | None:
    try:
        return spelled.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _byte_alphabet() -> dict[str, int]:
    """Byte that each letter of the byte-level alphabet stands for.

    Source: GPT-2's `bytes_to_unicode`: printable bytes stand for themselves, the others are
    numbered from code point 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }
