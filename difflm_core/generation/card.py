"""The model card of a generator: a page that says what it is, for whoever receives it.

It names columns and kinds, never a value of the data, and holds no time and no path: the same
training gives the same card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from difflm_core.data.schema import ColumnKind, DataKind, Schema

_HOW_LEARNED = {
    ColumnKind.IDENTIFIER: "made anew, unique, in the same pattern; not learned",
    ColumnKind.CONSTANT: "repeated as it is",
    ColumnKind.TEXT: "learned as pieces of text",
    ColumnKind.CATEGORICAL: "learned; only categories seen in training",
    ColumnKind.BOOLEAN: "learned",
}
_INSIDE_RANGE = "learned; inside the range seen in training"


@dataclass(frozen=True)
class TrainingFacts:
    """What a card tells beside the schema.

    Attributes:
        num_rows: Training records.
        seed: Seed of the run.
        vae: What validation says of the text-VAE (`VaeReport`), by name.
        diffusion: What validation says of the diffusion, by name.
        settings: Settings of the training, by section.
    """

    num_rows: int
    seed: int
    vae: Mapping[str, Any]
    diffusion: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Any])


def model_card(schema: Schema, facts: TrainingFacts) -> str:
    """Write the card as Markdown."""
    is_table = schema.data_kind is DataKind.TABLE
    sections = [
        _INTRODUCTION if is_table else _document_introduction(facts),
        _data_section(schema, facts) if is_table else _documents_section(schema, facts),
        _quality_section(facts),
        _USE_SECTION,
        _PRIVACY_SECTION if is_table else _DOCUMENT_PRIVACY_SECTION,
        _settings_section(facts),
    ]
    return "\n\n".join(sections) + "\n"


_INTRODUCTION = """# Model card: generator of synthetic records

A DiffLM model: a latent diffusion draws a latent, and a language model writes the record that
belongs to it, one token for a value or a digit. It was trained from scratch on one table and knows
nothing else."""


def _document_introduction(facts: TrainingFacts) -> str:
    base = facts.settings.get("vae", {}).get("decoder")
    origin = "It was trained from scratch on one corpus and knows nothing else."
    if base:
        origin = (
            f"It stands on the pretrained language model {base}, which is not part of this folder "
            "and whose terms of use apply, too."
        )
    return (
        "# Model card: generator of synthetic documents\n\n"
        "A DiffLM model: a latent diffusion draws a latent, and a language model writes the "
        f"document that belongs to it. {origin}"
    )


def _documents_section(schema: Schema, facts: TrainingFacts) -> str:
    target = f" Target: {_cell(schema.target)}." if schema.target else ""
    how = {
        DataKind.JSON: "Every document is valid against the JSON Schema in `codec/codec.json`.",
        DataKind.CODE: "Every piece of code parses as Python. It was never run: treat it as code "
        "that nobody has read.",
    }[schema.data_kind]
    return "\n".join(
        [
            "## Trained on",
            "",
            f"{facts.num_rows:,} documents of the kind {schema.data_kind.value}.{target} {how}",
        ]
    )


def _data_section(schema: Schema, facts: TrainingFacts) -> str:
    target = f" Target: {_cell(schema.target)}." if schema.target else ""
    rows = [
        f"| {_cell(column.name)} | {column.kind.value} | {'yes' if column.nullable else 'no'} | "
        f"{_HOW_LEARNED.get(column.kind, _INSIDE_RANGE)} |"
        for column in schema.columns
    ]
    return "\n".join(
        [
            "## Trained on",
            "",
            f"{facts.num_rows:,} records with {len(schema.columns)} columns.{target}",
            "",
            "| column | kind | may be missing | how it is generated |",
            "|-|-|-|-|",
            *rows,
        ]
    )


def _quality_section(facts: TrainingFacts) -> str:
    measured = facts.vae.get("reconstruction") or facts.vae.get("kl")
    lines = ["## Validation", ""]
    if not measured:
        return "\n".join([*lines, "No records were kept for validation."])
    shown = {
        "Reconstruction, nats per record (less is better)": facts.vae.get("reconstruction"),
        "The same without the latent": facts.vae.get("language_model"),
        "KL divergence of the posterior, nats per record": facts.vae.get("kl"),
        "Latent dimensions in use": facts.vae.get("active_dims"),
        "Loss of the diffusion on fixed noise": facts.diffusion.get("loss"),
    }
    lines += ["| measure | value |", "|-|-|"]
    lines += [f"| {name} | {value:.4g} |" for name, value in shown.items() if value is not None]
    return "\n".join(
        [
            *lines,
            "",
            "These describe the fit, not the records. How good and how private the records are is "
            "said by the evaluation report (`difflm run`, then `difflm report`).",
        ]
    )


_USE_SECTION = """## Use

    difflm sample <this folder> -n 1000 -o synthetic.parquet

    from difflm_core.api import DiffLM
    synthetic = DiffLM.from_pretrained("<this folder>").sample(1000, seed=1)

Meant for records of the same form as the training table: to develop and test software, to share
instead of the real table after the evaluation report was read, to add to scarce data.

Not meant for decisions about people, for facts about single records, or for populations other
than the one it was trained on. It repeats the biases of its training data. Rules between columns
or rows that the data only follow by convention (sums, order of dates, keys of other tables) hold
as often as they were learned, not always."""

_PRIVACY_SECTION = """## Privacy

The folder holds no training records. It does hold, so that records can be written: the names of
columns and categories, constants, the smallest and largest values and the distribution of numbers
and dates, and pieces of free text (`codec/`). Rare categories and extreme values of the training
table can therefore be read from it and appear in what it generates.

Training gives no formal guarantee (no differential privacy). Copies and near copies, distances to
the closest training records and a membership attack are measured by the evaluation report: read
it before the model or its records leave the place where the training data may be."""


_DOCUMENT_PRIVACY_SECTION = """## Privacy

The folder holds no training documents. It does hold, so that documents can be written: the pieces
of text that were frequent in them, and, of JSON, the names of keys, listed values, ranges of
numbers and lengths (`codec/`). What many training documents share will appear in what it
generates, and a language model can repeat what it has read often.

Training gives no formal guarantee (no differential privacy). Copies and near copies are measured
by the evaluation report: read it before the model or its documents leave the place where the
training data may be."""


def _settings_section(facts: TrainingFacts) -> str:
    lines = ["## Settings", "", f"- seed: {facts.seed}"]
    for section, values in facts.settings.items():
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        lines.append(f"- {section}: {shown}")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A column's name as text of a Markdown table."""
    plain = " ".join(text.split())
    for mark in "\\|`*_<>[]":
        plain = plain.replace(mark, f"\\{mark}")
    return plain
