"""All sections together, and `runtime`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from difflm_core.config.data import CodecConfig, DataConfig, SerializeConfig
from difflm_core.config.model import DiffusionConfig, LatentsConfig, VaeConfig
from difflm_core.config.output import EvaluateConfig, GenerateConfig
from difflm_core.config.presets import with_defaults
from difflm_core.config.section import Section
from difflm_core.errors import ConfigError

SectionT = TypeVar("SectionT", bound=Section)


class RuntimeConfig(Section):
    """Where and how wide the work runs. It is no part of any fingerprint."""

    num_workers: int = Field(
        default=1,
        ge=1,
        description="Processes that share the work of a stage. Any number gives the same result.",
    )
    min_workers: int | None = Field(
        default=None,
        ge=1,
        description="Workers that suffice for training on Ray: a group begins with as many, or "
        "goes on with them from its last checkpoint, while nodes for `num_workers` are missing. "
        "null: `num_workers`.",
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
        description="Type in which the text-VAE multiplies matrices. auto: bfloat16 where this "
        "machine is faster in it, else float32. Each gives other rows for a seed, of equal "
        "quality.",
    )
    zero_stage: int = Field(
        default=0,
        ge=0,
        le=3,
        description="What the workers that train the text-VAE share out among them instead of "
        "keeping all of it each, with DeepSpeed ZeRO: 0 nothing, 1 the optimizer's states, 2 also "
        "the gradients, 3 also the weights. Needs `vae.optimizer: adamw`.",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none",
        description="What rests in the host's memory while a GPU does not need it, with "
        "`zero_stage` 1 to 3: optimizer (its states), all (also weights, with `zero_stage` 3).",
    )
    accumulation_steps: int = Field(
        default=1,
        ge=1,
        description="Parts in which a worker computes its share of a batch of the text-VAE, one "
        "after the other, to save memory; `vae.free_nats` then looks at a part instead of the "
        "batch.",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Compute the decoder's activations a second time in the backward pass "
        "instead of keeping them, to save memory.",
    )
    tensorboard: str | None = Field(
        default=None,
        examples=["runs/my_table/tensorboard"],
        description="Folder or URI for the curves of each stage, to be watched with TensorBoard; "
        "one for each run, outside the folders of its stages. null: none. Needs the package "
        "tensorboard (`pip install 'difflm-on-ray[tracking]'`).",
    )

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers {self.min_workers} is more than num_workers {self.num_workers}"
            )
        return self

    @model_validator(mode="after")
    def _check_offload(self) -> Self:
        needed = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < needed:
            raise ValueError(
                f"offload {self.offload!r} needs zero_stage {needed} or more, found "
                f"{self.zero_stage}"
            )
        return self


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

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, values: Any) -> Any:
        return with_defaults(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        pretrained = {"vae.decoder": self.vae.decoder, "vae.encoder": self.vae.encoder}
        for key, value in pretrained.items():
            if value is not None and self.data.kind == "table":
                raise ValueError(
                    f"{key} {value!r} is for documents, but data.kind is table; read the rows as "
                    "documents (data.kind: json), or leave it out"
                )
        if self.vae.decoder is not None and self.codec.tokenizer != self.vae.decoder:
            raise ValueError(
                f"codec.tokenizer {self.codec.tokenizer!r} is not that of vae.decoder "
                f"{self.vae.decoder!r}, which reads its own tokens only; leave codec.tokenizer out"
            )
        return self

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        runtime, vae = self.runtime, self.vae
        if runtime.zero_stage and vae.optimizer == "muon":
            raise ValueError(
                f"runtime.zero_stage {runtime.zero_stage} does not go with vae.optimizer 'muon', "
                "which needs whole matrices; set vae.optimizer to 'adamw', or runtime.zero_stage "
                "to 0"
            )
        if runtime.activation_checkpointing and vae.injection == "kv_memory":
            raise ValueError(
                "runtime.activation_checkpointing does not go with vae.injection 'kv_memory'; set "
                "it to false, or vae.injection to 'soft_prompt'"
            )
        return self

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
