"""Settings of the model: the sections `vae`, `latents` and `diffusion`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from difflm_core.config.section import NOT_IN_FINGERPRINT, Section, Texts

InjectionName = Literal["soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embedding"]


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
    injection: InjectionName = Field(
        default="soft_prompt",
        description="How the latent reaches the decoder: as prompts in front of the record, as "
        "prompts behind learned ones that are always the same, as keys and values in every layer, "
        "or added to every token.",
    )
    decoder: str | None = Field(
        default=None,
        examples=["models/mistral-7b"],
        description="Pretrained language model that writes documents: path of a Hugging Face "
        "model's folder, or a hub id. null: a compact one, trained from scratch.",
    )
    decoder_revision: str | None = Field(
        default=None, description="Commit, branch or tag of `decoder` on the hub."
    )
    decoder_training: Literal["frozen", "lora", "full"] = Field(
        default="frozen",
        description="What of `decoder` is trained: frozen: nothing, only the latent's prompts "
        "(as in the paper); lora: adapters; full: all of it.",
    )
    lora_rank: int = Field(default=16, ge=1, description="Rank of the adapters, in dimensions.")
    lora_alpha: int = Field(
        default=32, ge=1, description="Scale of the adapters, relative to their rank."
    )
    lora_modules: Texts = Field(
        default=(),
        examples=[["q_proj", "v_proj"]],
        description="Names of the layers that have an adapter. Empty: all linear layers.",
    )
    quantization: Literal["none", "8bit", "4bit"] = Field(
        default="none",
        description="How the weights of `decoder` rest in memory (needs bitsandbytes and a GPU).",
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        default="auto",
        description="Attention kernel of `decoder`. auto: flash attention where it is installed "
        "and the device has it, else sdpa.",
    )
    instruction: str | None = Field(
        default=None,
        description="Text that `decoder` reads first; `default` takes the built-in one. For models "
        "that follow instructions.",
    )
    chat_template: bool = Field(
        default=False,
        description="Whether the instruction is put as a user's turn of the model's chat template.",
    )
    encoder: str | None = Field(
        default=None,
        description="Pretrained encoder that reads documents: path of a Hugging Face model's "
        "folder, or a hub id. null: a compact one, trained from scratch.",
    )
    encoder_revision: str | None = Field(
        default=None, description="Commit, branch or tag of `encoder` on the hub."
    )
    encoder_training: Literal["frozen", "full"] = Field(
        default="full", description="Whether the pretrained encoder is trained, or stays as it is."
    )
    pretrained_lr: float = Field(
        default=1e-4,
        gt=0,
        description="Learning rate of AdamW for weights and adapters of pretrained models, per "
        "step.",
    )
    hide_target: bool = Field(
        default=True,
        description="Whether the encoder reads a record without its target (`data.target`), so "
        "that the decoder learns to tell the target from the record and not from the latent.",
    )
    batch_rows: int | None = Field(
        default=None,
        ge=1,
        description="Records in one training step, in rows. null: 256 rows of a table, or as many "
        "documents as have about 2,000 tokens.",
    )
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
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon",
        description="What trains the hidden matrices: Muon, or AdamW as everything else.",
    )
    lr: float = Field(default=3e-3, gt=0, description="Learning rate of AdamW, per step.")
    matrix_lr: float = Field(default=0.02, gt=0, description="Learning rate of Muon, per step.")
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

    @model_validator(mode="after")
    def _check_pretrained(self) -> Self:
        if self.decoder is None:
            for name in ("quantization", "instruction", "chat_template", "decoder_revision"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} {getattr(self, name)!r} needs a pretrained model; set decoder to "
                        "its path or hub id, or leave it out"
                    )
        if self.chat_template and self.instruction is None:
            raise ValueError(
                "chat_template true needs an instruction; set instruction to a text, or to default"
            )
        if self.quantization != "none" and self.decoder_training == "full":
            raise ValueError(
                f"quantization {self.quantization!r} does not go with decoder_training 'full': "
                "quantized weights are not trained; set decoder_training to lora or frozen"
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
    warmup_steps: int = Field(
        default=100,
        ge=1,
        description="Steps over which the learning rate rises at the start, in steps.",
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
