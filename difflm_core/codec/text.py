"""The text codec: documents (JSON or code) as the tokens of a text tokenizer.

The tokenizer is trained on the corpus (`codec/text_tokenizer.py`), or it is that
of a pretrained language model. Every document ends with the end token. What comes back from a
language model is checked (`codec/document_checks.py`): a document is valid, or it is rejected for a
reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from difflm_core.codec.base import (
    Decoded,
    read_codec_json,
    require_version,
    write_codec_json,
)
from difflm_core.codec.constraint import Constraint, code_grammar, json_grammar
from difflm_core.codec.document_checks import CodeRules, DocumentCheck, document_check
from difflm_core.codec.text_tokenizer import END, TokenizerSource, train_tokenizer
from difflm_core.data.document_form import canonical_code
from difflm_core.data.identifiers import IdentifierPattern
from difflm_core.data.json_schema import canonical_document
from difflm_core.data.schema import ColumnKind, DataKind, Schema
from difflm_core.errors import ConfigError, DataError

TEXT_CODEC_FORMAT_VERSION = 2
_TOKENIZER_JSON = "tokenizer.json"
# Texts in Python's own form are many times larger than in Arrow's: few are held at a time.
TEXTS_AT_ONCE = 2048
# Code is written within the grammar of Python where so large a share of a sample of the documents
# fits it: others are indented by tabs, or are Python of another kind.
GRAMMAR_SHARE, GRAMMAR_SAMPLE = 0.95, 512
# What becomes so many times longer than the longest of a sample of the documents has lost its way.
LOST_LENGTH = 1.5
Ids = npt.NDArray[np.int32]
CodeGrammar = Literal["auto", "none"]


@dataclass(frozen=True)
class TextCodecOptions:
    """How documents become tokens.

    Attributes:
        vocab_size: Vocabulary of a tokenizer that is trained on the corpus, in tokens.
        max_tokens: Longest document, its end included, in tokens; longer ones are left out of the
            training.
        code_rules: What generated code must be, beside Python that parses.
        code_grammar: Whether code is written within a grammar of Python: where most of the corpus
            fits it, or never.
    """

    vocab_size: int = 2048
    max_tokens: int = 512
    code_rules: CodeRules = "parse"
    code_grammar: CodeGrammar = "auto"


@dataclass(frozen=True)
class DocumentTokens:
    """Documents as tokens, one after the other.

    Attributes:
        values: Token ids of all documents, each with its end token; int32.
        offsets: Where each document begins in `values`, and the end; shape [N + 1].
        num_too_long: Documents that were left out because they have too many tokens.
    """

    values: Ids
    offsets: npt.NDArray[np.int64]
    num_too_long: int = 0

    def __len__(self) -> int:
        """Number of documents, N."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, shape [N]."""
        return np.diff(self.offsets)

    def padded(self, rows: npt.NDArray[np.integer], pad: int) -> npt.NDArray[np.int64]:
        """Some documents as a matrix [B, T], filled up with `pad` at the end."""
        begin, length = self.offsets[rows], self.lengths[rows]
        column = np.arange(max(1, int(length.max(initial=0))))
        inside = column < length[:, None]
        ids_BT = np.full(inside.shape, pad, dtype=np.int64)
        ids_BT[inside] = self.values[(begin[:, None] + column)[inside]]
        return ids_BT


class TextCodec:
    """Encodes documents as token ids of a text tokenizer, and decodes what a model writes.

    Attributes:
        schema: Of the documents: one column of the kind `json` or `code`.
        tokenizer: Text to token ids; it spells any text.
        end: Token id that ends a document.
        source: Pretrained model whose tokenizer it is; None: trained on the corpus.
        options: Sizes and checks.
        tokens_per_record: Tokens of a document, on average.
        max_written: Longest document that is written, in tokens.
        fits_grammar: Whether the corpus is written in Python as the grammar knows it.
    """

    # Documents have no identifiers, and no residuals beside their tokens (see `RecordCodec`).
    identifiers: Mapping[str, IdentifierPattern] = {}
    num_residuals = 0

    def __init__(
        self,
        schema: Schema,
        tokenizer: Tokenizer,
        *,
        end: int,
        options: TextCodecOptions,
        source: TokenizerSource | None = None,
    ) -> None:
        """Assemble a codec; see `fit`."""
        self.schema = schema
        self.tokenizer = tokenizer
        self.end = end
        self.options = options
        self.source = source
        self.tokens_per_record = 0.0
        self.max_written = options.max_tokens
        self.fits_grammar = False

    @classmethod
    def fit(
        cls,
        schema: Schema,
        sample: pa.Table,
        options: TextCodecOptions,
        source: TokenizerSource | None = None,
    ) -> TextCodec:
        """Train a tokenizer on a sample of documents, or take that of a pretrained model.

        Raises:
            DataError: there are no documents, or all are too long.
            ConfigError: the pretrained tokenizer cannot be had, or does not spell the documents.
            SchemaError: the JSON Schema has something that cannot be enforced while writing.
        """
        if not sample.num_rows:
            raise DataError("Found no documents to fit the codec to; expected at least one.")
        texts = sample.column(schema.columns[0].name)
        if source is None:
            tokenizer = train_tokenizer(
                _lists(texts), schema.columns[0].json_schema, vocab_size=options.vocab_size
            )
            codec = cls(schema, tokenizer, end=_end_of(tokenizer), options=options)
        else:
            tokenizer, end = source.load()
            codec = cls(schema, tokenizer, end=end, options=options, source=source)
            source.require_exact(codec.tokenizer, next(_lists(texts)))
        found = codec.encode(sample.slice(0, TEXTS_AT_ONCE))
        if not len(found):
            raise DataError(
                f"All documents have more than {options.max_tokens} tokens; raise "
                "codec.max_document_tokens, or take shorter documents (data.field selects a part)."
            )
        codec.tokens_per_record = round(float(found.lengths.mean()), 1)
        longest = round(LOST_LENGTH * int(found.lengths.max()))
        codec.max_written = min(options.max_tokens, longest)
        codec.fits_grammar = codec._fits_grammar(found)
        # What no grammar can be made of is refused here, before anything is trained on it.
        _ = codec.constraint
        return codec

    @property
    def data_kind(self) -> DataKind:
        """What the documents are."""
        return self.schema.data_kind

    @property
    def vocab_size(self) -> int:
        """Token ids of the tokenizer, specials included."""
        return self.tokenizer.get_vocab_size()

    @cached_property
    def check(self) -> DocumentCheck:
        """Tells a valid document from an invalid one."""
        return document_check(self.schema.columns[0], self.options.code_rules)

    def encode(
        self, records: pa.RecordBatch | pa.Table, generator: np.random.Generator | None = None
    ) -> DocumentTokens:
        """Encode documents; those of more than `max_tokens` tokens are left out and counted.

        Args:
            records: Documents in canonical form.
            generator: Unused: one document has one spelling.
        """
        del generator
        column = records.column(self.schema.columns[0].name)
        parts: list[Ids] = []
        num_too_long = 0
        for texts in _lists(column):
            for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                ids = encoding.ids
                if len(ids) >= self.options.max_tokens:
                    num_too_long += 1
                else:
                    parts.append(np.array([*ids, self.end], dtype=np.int32))
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        values = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
        return DocumentTokens(values, np.concatenate([[0], np.cumsum(lengths)]), num_too_long)

    def decode(self, rows: Sequence[Sequence[int]]) -> Decoded:
        """Decode and check what a model wrote.

        Args:
            rows: Token ids of each document; one that does not end with the end token was cut off.
        """
        column = self.schema.columns[0].name
        rejections: Counter[tuple[str, str]] = Counter()
        valid = np.zeros(len(rows), dtype=bool)
        kept: list[str] = []
        texts = self.tokenizer.decode_batch([[i for i in row if i != self.end] for row in rows])
        for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
            ended = bool(len(row)) and row[-1] == self.end
            reason = self.check(text) if ended else self.cut_off
            if reason is None:
                valid[index] = True
                kept.append(self._canonical(text))
            else:
                rejections[column, reason] += 1
        records = pa.RecordBatch.from_arrays(
            [pa.array(kept, pa.string())], schema=self.schema.arrow_schema
        )
        return Decoded(records, valid, rejections)

    def _canonical(self, text: str) -> str:
        column = self.schema.columns[0]
        if column.kind is ColumnKind.CODE:
            return canonical_code(text)
        return canonical_document(json.loads(text), column.json_schema or {})

    @cached_property
    def constraint(self) -> Constraint | None:
        """What is allowed while a document is written; None: anything."""
        column = self.schema.columns[0]
        if column.kind is not ColumnKind.CODE:
            return Constraint(json_grammar(column.json_schema or {}), self.tokenizer, end=self.end)
        if self.options.code_grammar == "none" or not self.fits_grammar:
            return None
        return Constraint(code_grammar(), self.tokenizer, end=self.end)

    def _fits_grammar(self, documents: DocumentTokens) -> bool:
        """Whether most of the code is Python as the grammar knows it."""
        if self.schema.data_kind is not DataKind.CODE:
            return False
        try:
            grammar = Constraint(code_grammar(), self.tokenizer, end=self.end)
        except ConfigError:  # a pretrained tokenizer whose tokens are no bytes
            return False
        rows = np.split(documents.values, documents.offsets[1:-1])[:GRAMMAR_SAMPLE]
        return sum(grammar.accepts(row[:-1].tolist()) for row in rows) >= GRAMMAR_SHARE * len(rows)

    @property
    def cut_off(self) -> str:
        """Reason of a document that did not end in time."""
        return f"no end within {self.max_written} tokens"

    def with_identifiers(self, records: pa.RecordBatch, *, start: int, seed: int) -> pa.RecordBatch:
        """The records as they are: documents have no identifiers."""
        del start, seed
        return records

    def save(self, directory: Path) -> None:
        """Write the codec to `directory` as JSON."""
        document: dict[str, Any] = {
            "type": "text",
            "format_version": TEXT_CODEC_FORMAT_VERSION,
            "schema": self.schema.model_dump(mode="json"),
            "end": self.end,
            "tokens_per_record": self.tokens_per_record,
            "max_written": self.max_written,
            "fits_grammar": self.fits_grammar,
            "options": asdict(self.options),
            "source": None if self.source is None else asdict(self.source),
        }
        write_codec_json(directory, document)
        (directory / _TOKENIZER_JSON).write_text(self.tokenizer.to_str(), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> TextCodec:
        """Inverse of `save`.

        Raises:
            ArtifactError: the codec was written in another format.
        """
        document = read_codec_json(directory)
        require_version(directory, document["format_version"], TEXT_CODEC_FORMAT_VERSION)
        codec = cls(
            Schema.model_validate(document["schema"]),
            Tokenizer.from_str((directory / _TOKENIZER_JSON).read_text(encoding="utf-8")),
            end=document["end"],
            options=TextCodecOptions(**document["options"]),
            source=TokenizerSource(**document["source"]) if document["source"] else None,
        )
        codec.tokens_per_record = document["tokens_per_record"]
        codec.max_written = document["max_written"]
        codec.fits_grammar = document["fits_grammar"]
        return codec


def _end_of(tokenizer: Tokenizer) -> int:
    end = tokenizer.token_to_id(END)
    if end is None:
        raise AssertionError("a trained tokenizer has the end token")
    return end


def _lists(values: pa.Array | pa.ChunkedArray) -> Iterator[list[str]]:
    """Texts as Python's, some at a time."""
    chunks: Iterable[pa.Array] = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    for chunk in chunks:
        for start in range(0, len(chunk), TEXTS_AT_ONCE):
            yield chunk.slice(start, TEXTS_AT_ONCE).to_pylist()
