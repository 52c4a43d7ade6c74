"""What every codec does: records to tokens and back."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from difflm_core.codec.grammar import Grammar
from difflm_core.errors import ArtifactError

_CODEC_JSON = "codec.json"


@dataclass(frozen=True)
class TokenBatch:
    """Records as tokens.

    Attributes:
        ids: Token ids, shape [B, T], int32.
        residuals: Where inside its token's cell each value lies, shape [B, F], in [0, 1). A value
            that is not spelled out to the last digit keeps the remainder here, so that decoding
            inverts exactly; a generated record draws it uniformly.
    """

    ids: npt.NDArray[np.int32]
    residuals: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Decoded:
    """What a batch of token rows means.

    Attributes:
        records: The valid records, canonical types, in the order of their token rows. Identifiers
            are missing: they belong to the rows of the output, so `with_identifiers` fills them in
            once rejected rows have been replaced.
        valid: Mask over the token rows, shape [B]; False where a row was rejected.
        rejections: Number of rejected rows by (column, reason).
    """

    records: pa.RecordBatch
    valid: npt.NDArray[np.bool_]
    rejections: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])


class Codec(Protocol):
    """Turns canonical records into token rows of a fixed grammar, and back."""

    @property
    def grammar(self) -> Grammar:
        """Allowed tokens per position."""
        ...

    def encode(self, records: pa.RecordBatch, generator: np.random.Generator) -> TokenBatch:
        """Encode canonical records; repeated values are spread by `generator`."""
        ...

    @property
    def num_residuals(self) -> int:
        """Residuals per record, F."""
        ...

    def decode(self, ids: npt.NDArray[np.integer], residuals: npt.NDArray[np.float64]) -> Decoded:
        """Decode token rows; identifiers are left missing."""
        ...

    def with_identifiers(self, records: pa.RecordBatch, *, start: int, seed: int) -> pa.RecordBatch:
        """Fill in the identifiers of decoded records; `start` is the first one's global index."""
        ...

    def save(self, directory: Path) -> None:
        """Write the codec as JSON and safetensors."""
        ...


def write_codec_json(directory: Path, document: dict[str, Any]) -> None:
    """Write what a codec is made of; `directory` is created."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (directory / _CODEC_JSON).write_text(text, encoding="utf-8")


def read_codec_json(directory: Path) -> dict[str, Any]:
    """What `write_codec_json` wrote."""
    return json.loads((directory / _CODEC_JSON).read_text(encoding="utf-8"))


def require_version(directory: Path, found: int, expected: int) -> None:
    """Check the format version of the codec in `directory`.

    Raises:
        ArtifactError: the codec was written in another format.
    """
    if found != expected:
        raise ArtifactError(
            f"{directory / _CODEC_JSON}: format_version {found}, expected {expected}. Read it with "
            "the release that wrote it, or fit again."
        )
