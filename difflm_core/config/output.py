"""Settings of what a run makes: the sections `generation` and `evaluation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from difflm_core.config.section import Section, Texts


class GenerateConfig(Section):
    """How much is generated, in what form, and how freely."""

    num_rows: int | None = Field(
        default=None,
        ge=1,
        description="Records to generate, in rows. null: as many as the training table has.",
    )
    batch_rows: int = Field(default=1024, ge=1, description="Records decoded at once, in rows.")
    shard_rows: int = Field(
        default=65_536,
        ge=1,
        description="Records in one shard of the output, in rows; rounded down to whole batches.",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="Softmax temperature, without unit; 1 keeps the learned distribution, less "
        "is more typical and less diverse.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the probability mass kept at each token, from 0 to 1; 1 keeps all.",
    )
    format: Literal["parquet", "csv", "jsonl"] = Field(
        default="parquet", description="File format of the synthetic records."
    )
    max_attempts: int = Field(
        default=16,
        ge=1,
        description="Most tries for one record before the stage fails, in tries; each rejected "
        "try is counted by column and reason.",
    )


class EvaluateConfig(Section):
    """How the synthetic records are scored."""

    scorer: Literal["strict", "paper", "both"] = Field(
        default="strict",
        description="strict: no row is dropped, nothing is chosen on test data; paper: the "
        "protocol of the published tables, for comparison with them; both: one after the other.",
    )
    categorical: Texts = Field(
        default=(),
        description="Number columns that the metrics treat as categories, such as integer codes.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Seed of the scorer's own models and samples, apart from the run's seed, so "
        "that runs with different seeds are scored alike.",
    )
    max_rows: int = Field(
        default=50_000,
        ge=100,
        description="Rows that enter metrics whose cost grows faster than the table (distances "
        "between records), in rows.",
    )
