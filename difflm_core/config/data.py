"""Settings of the real records and of their tokens: the sections `data` and `codec`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from difflm_core.config.section import Section, Texts


class DataConfig(Section):
    """Where the real records are, and how to read and split them."""

    kind: Literal["table", "json", "code"] = Field(
        default="table",
        description="What a record is: a row of a table, a JSON document, or a piece of Python "
        "code. Documents have other defaults (docs/config.md, at the end).",
    )
    source: str | None = Field(
        default=None,
        description="Real records: a path, a glob or a URI (s3://, gs://) of CSV, TSV, JSONL or "
        "Parquet files, also .gz or .zst; of documents also JSON, of code also Python files. A "
        "relative path starts at the working directory.",
    )
    field: str | None = Field(
        default=None,
        description="Part of each record that is the document or the code, as a dotted path, such "
        "as goal or function.code. null: the whole record; of code, the field code, content or "
        "text.",
    )
    test_source: str | None = Field(
        default=None,
        description="Held-out records in files of their own, as for `source`; "
        "`test_fraction` is then not used. null: split them off `source`.",
    )
    target: str | None = Field(
        default=None,
        description="Column that a downstream model predicts, for the utility score and the "
        "schema; in JSON documents a dotted path, such as category. null: the schema's target, or "
        "none.",
    )
    schema_path: str | None = Field(
        default=None,
        description="A schema.json (`difflm schema infer`), an SDV metadata JSON, or the JSON "
        "Schema of documents. null: infer the schema from the records.",
    )
    valid_fraction: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the records kept for validation (early stopping), from 0 to 1.",
    )
    test_fraction: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the records kept for evaluation, never trained on, from 0 to 1.",
    )
    missing_values: Texts = Field(
        default=(),
        description="Spellings of a missing value, beside the empty field; such as ['?', 'N/A'].",
    )
    column_names: Texts | None = Field(
        default=None,
        description="Column names of a CSV or TSV file without a header line. "
        "null: the first line holds them.",
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="Character between the fields of a text table. null: by the file's suffix.",
    )

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        test_fraction = 0.0 if self.test_source else self.test_fraction
        if self.valid_fraction + test_fraction >= 1:
            raise ValueError(
                f"valid_fraction {self.valid_fraction} and test_fraction {self.test_fraction} "
                "leave no records to train on; together they must stay below 1"
            )
        return self


class CodecConfig(Section):
    """How a record becomes tokens."""

    digit_base: int = Field(
        default=64,
        ge=2,
        le=1024,
        description="Base of the rank digits that stand for a number, in values.",
    )
    max_value_tokens: int = Field(
        default=64,
        ge=1,
        description="A number column with at most this many distinct values gets one token for "
        "each of them, in tokens.",
    )
    max_text_tokens: int = Field(
        default=128, ge=1, description="Longest free text kept of one field, in tokens."
    )
    text_vocab_size: int = Field(
        default=512,
        ge=257,
        description="Vocabulary of the byte-level BPE for free text, in tokens.",
    )
    max_document_tokens: int = Field(
        default=512,
        ge=8,
        description="Longest document or piece of code, in tokens. Longer ones are left out of the "
        "training, and counted. What is written ends there too, or at one and a half times the "
        "longest document of a sample.",
    )
    document_vocab_size: int = Field(
        default=4096,
        ge=257,
        description="Vocabulary of the byte-level BPE that is trained on documents, in tokens.",
    )
    tokenizer: str | None = Field(
        default=None,
        description="Tokenizer of documents: path or hub id of a Hugging Face model. null: that of "
        "`vae.decoder`, or without one, a tokenizer trained on the documents.",
    )
    tokenizer_revision: str | None = Field(
        default=None, description="Commit, branch or tag of the tokenizer on the hub."
    )
    code_rules: Literal["parse", "names"] = Field(
        default="parse",
        description="What generated code must be: parse: Python that parses; names: also without "
        "undefined names (pyflakes). What is not is made again, and counted.",
    )
    code_grammar: Literal["auto", "none"] = Field(
        default="auto",
        description="auto: code is written within a grammar of Python, where nearly all of the "
        "corpus fits it (indented by four blanks, without `match`); none: freely.",
    )
    fit_rows: int = Field(
        default=262_144,
        ge=1,
        description="Size of the uniform sample of training records that the codec is fitted to, "
        "in rows; of a larger table, that many on average.",
    )
    shard_rows: int = Field(
        default=65_536, ge=1, description="Records in one shard file of the corpus, in rows."
    )


class SerializeConfig(Section):
    """What the stage `serialize` reads: the sections `data` and `codec`."""

    data: DataConfig = Field(default=DataConfig(), description="The section `data`.")
    codec: CodecConfig = Field(default=CodecConfig(), description="The section `codec`.")
