"""The record codec: a schema compiled into tokens.

Every column becomes a few slots in a fixed order (`fields.py`). Constants take no token at all,
and identifiers are not learned: they are a function of the output row's global index.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module
from safetensors.numpy import load_file, save_file

from difflm_core.codec.base import (
    Decoded,
    TokenBatch,
    read_codec_json,
    require_version,
    write_codec_json,
)
from difflm_core.codec.fields import CodecOptions, Field
from difflm_core.codec.grammar import Grammar, Slot
from difflm_core.codec.rank_field import RankField
from difflm_core.codec.text_field import TextField
from difflm_core.data.identifiers import IdentifierPattern, Sequence, infer_codes
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.errors import DataError, SchemaError

pc: Any = pc_module

CODEC_FORMAT_VERSION = 1
_CODEC_ARRAYS = "codec.safetensors"
# Of a large sample, so many are encoded at a time.
ROWS_AT_ONCE = 65_536


class RecordCodec:
    """Encodes canonical records of one schema as token rows of a fixed grammar.

    Attributes:
        schema: The schema of the records.
        grammar: Allowed tokens per position.
        vocab_order: Relative position of each token in its column's distribution, shape [V], NaN
            for tokens without order; numbers start with ordered embeddings because of it.
        slot_column: Index, in the schema, of the column that each slot belongs to, shape [T].
        num_residuals: Residuals per record, F.
        token_share: Share of the training records in which each token stands, shape [V]; the
            generated table is calibrated to it.
    """

    def __init__(
        self,
        schema: Schema,
        fields: dict[str, Field],
        identifiers: dict[str, IdentifierPattern],
        token_share: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Assemble the codec from fitted `fields` and identifier patterns, by column name."""
        self.schema = schema
        self.fields = fields
        self.identifiers = identifiers
        self._slots: dict[str, list[Slot]] = {}
        start = 0
        for name, field in fields.items():
            self._slots[name] = field.slots(start)
            start += field.vocab_order().size
        slots = [slot for part in self._slots.values() for slot in part]
        self.grammar = Grammar(slots, vocab_size=start)
        self.vocab_order = np.concatenate([f.vocab_order() for f in fields.values()])
        self.slot_column = np.repeat(
            [schema.names.index(name) for name in fields],
            [len(part) for part in self._slots.values()],
        )
        self.num_residuals = sum(field.num_residuals for field in fields.values())
        self.token_share = np.zeros(start) if token_share is None else token_share

    @property
    def vocab_size(self) -> int:
        """Token ids in all."""
        return self.grammar.vocab_size

    @property
    def tokens_per_record(self) -> float:
        """Tokens of a record: one for each slot."""
        return len(self.grammar)

    def first_token(self, name: str) -> int:
        """First token id of a column that is learned."""
        return self._slots[name][0].start

    def last_slot(self, name: str) -> int:
        """Index of the last slot of a column that is learned; its value is decided there."""
        return int(np.flatnonzero(self.slot_column == self.schema.names.index(name))[-1])

    def decode_column(
        self, name: str, ids: npt.NDArray[np.integer], residuals: npt.NDArray[np.float64]
    ) -> pa.Array:
        """Decode one column of token rows of which at least its own slots are filled in.

        Args:
            name: The column; of text, rejected values are not told from others.
            ids: Token ids, shape [B, T].
            residuals: As for `decode`, shape [B, F].
        """
        slots, field = self._slots[name], self.fields[name]
        stop = self.last_slot(name) + 1
        names = list(self.fields)
        first = sum(self.fields[n].num_residuals for n in names[: names.index(name)])
        part = ids[:, stop - len(slots) : stop].astype(np.int64)
        rest = residuals[:, first : first + field.num_residuals]
        return field.decode(part, slots, rest)[0]

    @classmethod
    def fit(
        cls,
        schema: Schema,
        sample: pa.Table,
        options: CodecOptions | None = None,
        values: pa.Table | None = None,
    ) -> RecordCodec:
        """Compile `schema` from a sample of canonical training records.

        Args:
            schema: What the columns are.
            sample: The records, drawn uniformly.
            options: Sizes of the tokens' alphabets.
            values: By column, values that must be expressible though the sample may miss them,
                such as rare categories and extremes; nulls do not count.

        Raises:
            DataError: the sample has no rows.
            SchemaError: no column of the schema holds anything to learn.
        """
        if not sample.num_rows:
            raise DataError("Found no records to fit the codec to; expected at least one.")
        options = options or CodecOptions()
        fields: dict[str, Field] = {}
        identifiers: dict[str, IdentifierPattern] = {}
        for column in schema.columns:
            sampled = _array(sample, column.name)
            if column.kind is ColumnKind.IDENTIFIER:
                identifiers[column.name] = _identifier_pattern(column, sampled)
            elif column.kind is ColumnKind.TEXT:
                fields[column.name] = TextField.fit(column, sampled, options)
            elif column.kind is not ColumnKind.CONSTANT:
                if values is not None:
                    sampled = _with_missed(sampled, _array(values, column.name))
                fields[column.name] = RankField.fit(column, sampled, options)
        if not fields:
            kinds = ", ".join(f"{c.name!r} is {c.kind}" for c in schema.columns)
            raise SchemaError(
                f"There is nothing to learn: {kinds}. Expected at least one column of another "
                "kind. Correct the kinds in schema.json if they were inferred wrongly."
            )
        codec = cls(schema, fields, identifiers)
        generator = np.random.default_rng(0)
        counts = np.zeros(codec.grammar.vocab_size, dtype=np.int64)
        for start in range(0, sample.num_rows, ROWS_AT_ONCE):
            ids = codec.encode(sample.slice(start, ROWS_AT_ONCE), generator).ids
            counts += np.bincount(ids.ravel(), minlength=len(counts))
        codec.token_share = counts / sample.num_rows
        return codec

    def encode(
        self, records: pa.RecordBatch | pa.Table, generator: np.random.Generator
    ) -> TokenBatch:
        """Encode canonical records.

        What the codec cannot express takes the nearest number, the missing token for a category
        never seen (the most frequent category if the column is not nullable), or is cut (text).

        Args:
            records: B records with the schema's columns.
            generator: Spreads repeated values over their rank; draw it anew every epoch.

        Raises:
            DataError: a value is missing, NaN or infinite that may not be.
        """
        ids: list[npt.NDArray[np.int64]] = []
        residuals: list[npt.NDArray[np.float64]] = []
        for name, field in self.fields.items():
            part, rest = field.encode(_array(records, name), self._slots[name], generator)
            ids.append(part)
            residuals.append(rest)
        return TokenBatch(
            np.concatenate(ids, axis=1).astype(np.int32), np.concatenate(residuals, axis=1)
        )

    def decode(self, ids: npt.NDArray[np.integer], residuals: npt.NDArray[np.float64]) -> Decoded:
        """Decode token rows of the grammar; identifiers stay missing (see `with_identifiers`).

        Args:
            ids: Token ids, shape [B, T].
            residuals: Position of each value inside its cell, shape [B, F], in [0, 1).
        """
        valid = np.ones(len(ids), dtype=bool)
        rejections: Counter[tuple[str, str]] = Counter()
        decoded: dict[str, pa.Array] = {}
        slot = residual = 0
        for name, field in self.fields.items():
            slots = self._slots[name]
            part = ids[:, slot : slot + len(slots)].astype(np.int64)
            rest = residuals[:, residual : residual + field.num_residuals]
            decoded[name], accepted, reason = field.decode(part, slots, rest)
            if not accepted.all():
                rejected = int((valid & ~accepted).sum())  # a row counts for its first reason
                if rejected:
                    rejections[name, reason] += rejected
                valid &= accepted
            slot += len(slots)
            residual += field.num_residuals
        arrays = [
            decoded[column.name]
            if column.name in decoded
            else pa.array([column.value] * len(ids), column.arrow_type)
            for column in self.schema.columns
        ]
        records = pa.RecordBatch.from_arrays(arrays, schema=self.schema.arrow_schema)
        if not valid.all():
            records = records.filter(pa.array(valid))
        return Decoded(records, valid, rejections)

    def with_identifiers(self, records: pa.RecordBatch, *, start: int, seed: int) -> pa.RecordBatch:
        """Fill in the identifiers of decoded records.

        An identifier depends on the seed and the row's global index alone, so rows of different
        batches, shards or workers never share one, and rejected rows use none up. Every row gets
        one, in a nullable column too.

        Args:
            records: Decoded records.
            start: Global index of the first record.
            seed: Seed of the run.

        Raises:
            DataError: a pattern has fewer identifiers than rows are asked for.
        """
        for name, pattern in self.identifiers.items():
            index = self.schema.names.index(name)
            made = pattern.generate(start, records.num_rows, seed)
            records = records.set_column(index, self.schema.arrow_schema.field(index), made)
        return records

    def save(self, directory: Path) -> None:
        """Write the codec to `directory` as JSON and safetensors."""
        document: dict[str, Any] = {
            "format_version": CODEC_FORMAT_VERSION,
            "schema": self.schema.model_dump(mode="json"),
            "fields": {name: field.to_json() for name, field in self.fields.items()},
            "identifiers": {name: pattern.text() for name, pattern in self.identifiers.items()},
        }
        arrays = {
            f"{index}.{key}": np.ascontiguousarray(array)
            for index, field in enumerate(self.fields.values())
            for key, array in field.arrays().items()
        }
        arrays["token_share"] = self.token_share
        write_codec_json(directory, document)
        save_file(arrays, directory / _CODEC_ARRAYS)

    @classmethod
    def load(cls, directory: Path) -> RecordCodec:
        """Inverse of `save`.

        Raises:
            ArtifactError: the codec was written in another format.
        """
        document = read_codec_json(directory)
        require_version(directory, document["format_version"], CODEC_FORMAT_VERSION)
        schema = Schema.model_validate(document["schema"])
        stored = load_file(directory / _CODEC_ARRAYS)
        fields: dict[str, Field] = {}
        for index, (name, data) in enumerate(document["fields"].items()):
            prefix = f"{index}."
            arrays = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
            kind = RankField if data["type"] == "rank" else TextField
            fields[name] = kind.load(schema.column(name), data, arrays)
        identifiers = {
            name: IdentifierPattern.parse(text) for name, text in document["identifiers"].items()
        }
        return cls(schema, fields, identifiers, stored["token_share"])


def _array(records: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = records.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _with_missed(sampled: pa.Array, values: pa.Array) -> pa.Array:
    """The sampled values, and once each of `values` that is not among them."""
    missed = pc.invert(pc.is_in(values, sampled.drop_null()))
    return pa.concat_arrays([sampled, values.filter(missed).drop_null().unique()])


def _identifier_pattern(column: Column, values: pa.Array) -> IdentifierPattern:
    """The declared pattern, or one that fits a sample of the values."""
    if column.pattern is not None:
        return IdentifierPattern.parse(column.pattern)
    codes: list[str] = values.drop_null().unique().to_pylist()
    if all(code.isdecimal() for code in codes):  # go on after the last number
        return IdentifierPattern((Sequence(max(map(int, codes), default=0) + 1),))
    pattern = infer_codes(codes) if len(codes) > 1 else None
    return pattern or IdentifierPattern((Sequence(1),))
