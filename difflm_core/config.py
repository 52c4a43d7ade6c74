"""The configuration of a run: one typed model behind YAML, `--set` and Python.

Precedence is defaults < YAML file < overrides (`section.key=value`). Every field has a
description with its unit; `docs/config.md` is generated from them. Which stage reads which
section is said by the type of the stage's `cfg` parameter (`RunConfig.section`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from difflm_core.errors import ConfigError

SectionT = TypeVar("SectionT", bound="Section")


# For `Field(json_schema_extra=...)` of a setting that changes how a stage works, never its result.
NOT_IN_FINGERPRINT: dict[str, Any] = {"fingerprint": False}


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    def fingerprint_values(self) -> dict[str, Any]:
        """Return the values that decide a result, as JSON values."""
        values = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            inner = getattr(self, name)
            if isinstance(extra, dict) and extra.get("fingerprint") is False:
                del values[name]
            elif isinstance(inner, Section):
                values[name] = inner.fingerprint_values()
        return values


def _as_sequence(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return (value,)
    if isinstance(value, list):
        # YAML reads an unquoted ? in a list as an empty mapping; as a text it can only mean "?".
        return ["?" if item == {None: None} else item for item in cast("list[Any]", value)]
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_sequence)]


class DataConfig(Section):
    """Where the real records are, and how to read and split them."""

    source: str | None = Field(
        default=None,
        description="Real records: a path, a glob or a URI (s3://, gs://) of CSV, TSV, JSONL or "
        "Parquet files, also .gz or .zst. A relative path starts at the working directory.",
    )
    test_source: str | None = Field(
        default=None,
        description="Held-out records in files of their own, as for `source`; "
        "`test_fraction` is then not used. null: split them off `source`.",
    )
    target: str | None = Field(
        default=None,
        description="Column that a downstream model predicts, for the utility score and the "
        "schema. null: the schema's target, or none.",
    )
    schema_path: str | None = Field(
        default=None,
        description="A schema.json (`difflm schema infer`) or an SDV metadata JSON. "
        "null: infer the schema from the records.",
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
    fit_rows: int = Field(
        default=262_144,
        ge=1,
        description="Size of the uniform sample of training records that the codec is fitted to, "
        "in rows.",
    )
    shard_rows: int = Field(
        default=65_536, ge=1, description="Records in one shard file of the corpus, in rows."
    )


class SerializeConfig(Section):
    """What the stage `serialize` reads: the sections `data` and `codec`."""

    data: DataConfig = Field(default=DataConfig(), description="The section `data`.")
    codec: CodecConfig = Field(default=CodecConfig(), description="The section `codec`.")


class VaeConfig(Section):
    """The text-VAE: encoder, injection, decoder, and their training."""

    width: int = Field(default=128, ge=8, description="Width of decoder and encoder, in units.")
    num_layers: int = Field(default=3, ge=1, description="Blocks of the decoder, in layers.")
    num_heads: int = Field(default=4, ge=1, description="Attention heads of each block, in heads.")
    encoder_layers: int = Field(default=1, ge=1, description="Blocks of the encoder, in layers.")
    dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Dropout rate of the decoder. null: 0.01 for each time that training may read "
        "the table, at most 0.3.",
    )
    latent_dim: int = Field(default=16, ge=1, description="Size of the latent, in dimensions.")
    num_prompts: int = Field(
        default=2, ge=1, description="Soft prompts (or memories) that carry the latent, in tokens."
    )
    injection: Literal["soft_prompt", "kv_memory", "input_embedding"] = Field(
        default="soft_prompt",
        description="How the latent reaches the decoder: as prompts in front of the record, as "
        "keys and values in every layer, or added to every token.",
    )
    hide_target: bool = Field(
        default=True,
        description="Whether the encoder reads a record without its target (`data.target`), so "
        "that the decoder learns to tell the target from the record and not from the latent.",
    )
    batch_rows: int = Field(default=256, ge=1, description="Records in one training step, in rows.")
    max_tokens: int = Field(
        default=12_000_000,
        ge=1,
        description="Most tokens read in training, in tokens; a phase ends earlier when "
        "validation stops improving.",
    )
    language_share: float = Field(
        default=0.35,
        gt=0,
        lt=1,
        description="Share of the steps that train the language model alone, from 0 to 1; then "
        "encoder and injection join it. Where the language model stops improving earlier, the "
        "rest is shortened in proportion.",
    )
    use_latents: bool = Field(
        default=True,
        description="false: the language model goes on alone, for comparison; its latents are "
        "then without meaning.",
    )
    lr: float = Field(
        default=3e-3,
        gt=0,
        description="Learning rate of embeddings, norms and biases (AdamW), per step.",
    )
    matrix_lr: float = Field(
        default=0.02, gt=0, description="Learning rate of the hidden matrices (Muon), per step."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Weight decay, per step and rate.")
    beta: float = Field(
        default=1.0, ge=0, description="Weight of the KL divergence at the start, without unit."
    )
    beta_end: float = Field(
        default=0.0, ge=0, description="Lowest weight of the KL divergence, without unit."
    )
    beta_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Factor on beta whenever the validation reconstruction stops improving, "
        "without unit; 1 keeps beta constant.",
    )
    free_nats: float = Field(
        default=0.4,
        ge=0,
        description="KL divergence of each latent dimension that costs nothing, in nats; it keeps "
        "the latent in use.",
    )
    latent_noise: float = Field(
        default=0.0,
        ge=0,
        description="Standard deviation of noise added to the decoder's latent in training, so "
        "that it forgives the diffusion's errors, in units of the prior's deviation.",
    )
    warmup_steps: int = Field(
        default=50,
        ge=1,
        description="Steps over which the learning rate rises at the start of a phase, in steps.",
    )
    clip_norm: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    ema_decay: float = Field(
        default=0.99, ge=0, lt=1, description="Decay of the weights' moving average, per step."
    )
    valid_rows: int = Field(
        default=3072, ge=1, description="Most validation records read in an evaluation, in rows."
    )
    evaluate_every_steps: int = Field(
        default=100, ge=1, description="Steps between evaluations, in steps."
    )
    patience: int = Field(
        default=2,
        ge=0,
        description="Evaluations without improvement that end a phase of the training, in "
        "evaluations; 0: none does. Each phase starts from the best weights of the one before.",
    )
    checkpoint_every_steps: int = Field(
        default=200,
        ge=1,
        description="Steps between checkpoints, in steps.",
        json_schema_extra=NOT_IN_FINGERPRINT,
    )

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(
                f"width {self.width} is not a multiple of num_heads {self.num_heads}; every head "
                "takes an equal part of it"
            )
        return self


class LatentsConfig(Section):
    """How latents are extracted from the trained VAE."""

    batch_rows: int = Field(default=1024, ge=1, description="Records encoded at once, in rows.")


class DiffusionConfig(Section):
    """The diffusion model on the latents, its training and its sampler."""

    width: int = Field(default=128, ge=8, description="Width of the residual MLP, in units.")
    num_blocks: int = Field(default=3, ge=1, description="Residual blocks of the MLP, in blocks.")
    batch_rows: int = Field(
        default=1024, ge=1, description="Latents in one training step, in rows."
    )
    num_steps: int = Field(default=3000, ge=2, description="Training steps, in steps.")
    lr: float = Field(default=2e-3, gt=0, description="Learning rate (AdamW), per step.")
    log_sigma_mean: float = Field(
        default=-0.4, description="Mean of the log noise level seen in training, in log sigma."
    )
    log_sigma_std: float = Field(
        default=1.2, gt=0, description="Deviation of the log noise level, in log sigma."
    )
    clip_norm: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="Decay of the weights' moving average, per step."
    )
    evaluate_every_steps: int = Field(
        default=250, ge=1, description="Steps between evaluations, in steps."
    )
    checkpoint_every_steps: int = Field(
        default=250,
        ge=1,
        description="Steps between checkpoints, in steps.",
        json_schema_extra=NOT_IN_FINGERPRINT,
    )
    sampler_steps: int = Field(
        default=5, ge=2, description="Heun steps from noise to latent, in steps."
    )
    sigma_min: float = Field(
        default=0.02, gt=0, description="Lowest noise level of the sampler, in latent deviations."
    )
    sigma_max: float = Field(
        default=20.0, gt=0, description="Highest noise level of the sampler, in latent deviations."
    )


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


class RuntimeConfig(Section):
    """Where and how wide the work runs. It is no part of any fingerprint."""

    num_workers: int = Field(
        default=1,
        ge=1,
        description="Processes that share the work of a stage. Any number gives the same result.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads of each process. null: all cores, shared by the workers. With "
        "another number, training rounds its sums differently: an equally good model, not the "
        "same bits. All other stages give the same result with any number.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "mps", "cuda", "cuda:0"],
        description="Where the models run: auto, cpu, mps, cuda or cuda:N. auto: a GPU if there "
        "is one.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Type in which the text-VAE multiplies matrices. auto: bfloat16 where the "
        "processor does so natively, which is about twice as fast, else float32. Each gives "
        "other rows for a seed, of equal quality.",
    )


class RunConfig(Section):
    """Everything that a run needs; one section for each part of the pipeline."""

    data: DataConfig = Field(
        default=DataConfig(), description="Where the real records are, how they are split."
    )
    codec: CodecConfig = Field(default=CodecConfig(), description="How a record becomes tokens.")
    vae: VaeConfig = Field(default=VaeConfig(), description="The text-VAE.")
    latents: LatentsConfig = Field(
        default=LatentsConfig(), description="Extraction of the latents."
    )
    diffusion: DiffusionConfig = Field(
        default=DiffusionConfig(), description="The diffusion model on the latents."
    )
    generation: GenerateConfig = Field(
        default=GenerateConfig(), description="The synthetic records."
    )
    evaluation: EvaluateConfig = Field(default=EvaluateConfig(), description="The scoring.")
    runtime: RuntimeConfig = Field(
        default=RuntimeConfig(), description="Where and how wide the work runs."
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Seed of all randomness of the run; same seed, same result.",
    )
    output: str = Field(
        default="runs/default",
        description="Directory or URI of the run; each stage writes a folder in it.",
    )

    def section(self, config_type: type[SectionT]) -> SectionT:
        """Return the part of the configuration that a stage with this `cfg` type reads.

        Raises:
            ConfigError: no section has that type.
        """
        if config_type is SerializeConfig:
            return config_type.model_validate({"data": self.data, "codec": self.codec})
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, config_type):
                return value
        raise ConfigError(
            f"No section of the configuration has the type {config_type.__name__}; a stage's "
            f"`cfg` must be annotated with one of the section classes of difflm_core.config."
        )

    @classmethod
    def section_name(cls, config_type: type[Section]) -> str | None:
        """Return the key of the section with this type; None for one with no key of its own."""
        for name, field in cls.model_fields.items():
            if field.annotation is config_type:
                return name
        return None

    def require_source(self, origin: str = "the configuration") -> None:
        """Check that there are records to learn from.

        Raises:
            ConfigError: `data.source` is not set.
        """
        if not self.data.source:
            raise ConfigError(
                f"{origin}: data.source is missing. Expected a path, a glob or a URI of CSV, TSV, "
                "JSONL or Parquet files. Add `data: {source: my.csv}` or "
                "`--set data.source=my.csv`."
            )

    def require_test_records(self) -> None:
        """Check that there are records to evaluate on.

        Raises:
            ConfigError: there is neither a share nor a source of them.
        """
        if not self.data.test_source and self.data.test_fraction == 0:
            raise ConfigError(
                "data.test_fraction is 0 and data.test_source is not set, so there would be no "
                "records to evaluate on. Set one of them; or make a model without a report: "
                "difflm fit."
            )
