"""What a column's field does, and how finely columns are written.

A field writes one column as a few slots of tokens: `RankField` covers every kind with a closed or
ordered set of values, `TextField` free text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from difflm_core.codec.grammar import Slot
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
        max_value_tokens: A number with at most this many distinct values, each occurring twice or
            more on average, has one token per value.
        max_category_tokens: Categories, up to this many, have one token each.
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


class Field(Protocol):
    """Writes one column as slots of tokens. Its token ids are consecutive, whatever their start."""

    @property
    def num_residuals(self) -> int:
        """Number of residuals per record (see `TokenBatch`)."""
        ...

    def slots(self, start: int) -> list[Slot]:
        """Slots of this field when its token ids begin at `start`."""
        ...

    def vocab_order(self) -> Floats:
        """Relative position of every token id of this field, shape [V]; NaN: unordered."""
        ...

    def encode(
        self, values: pa.Array, slots: list[Slot], generator: np.random.Generator
    ) -> tuple[Ids, Floats]:
        """Token ids [B, T] and residuals [B, num_residuals] of canonical `values`."""
        ...

    def decode(self, ids: Ids, slots: list[Slot], residuals: Floats) -> tuple[pa.Array, Mask, str]:
        """Canonical values of token ids [B, T], which of them are valid, why the rest are not."""
        ...

    def to_json(self) -> dict[str, Any]:
        """JSON part of the saved form."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Array part of the saved form."""
        ...


def find_missing(values: pa.Array, *, column: str, nullable: bool) -> Mask:
    """Mask of the missing values, shape [B].

    Raises:
        DataError: there are some, in a column that is not nullable.
    """
    missing: Mask = values.is_null().to_numpy(zero_copy_only=False)
    if not nullable and missing.any():
        raise DataError(
            f"Column {column!r}: found {int(missing.sum())} missing values, expected none, because "
            "its schema says nullable: false and the codec saw none. Declare it nullable, or fill "
            "the values in."
        )
    return missing
