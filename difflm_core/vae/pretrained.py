"""Pretrained language models and encoders, by the path of a folder or an id on the hub.

A trained text-VAE holds what was trained and a reference to the rest: `PretrainedSpec` names the
model, its revision and what its files look like, so that another model is not taken for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import nn

from difflm_core.device import Compute
from difflm_core.errors import ArtifactError, ConfigError
from difflm_core.vae.attention import TIME_MAJOR

Training = Literal["frozen", "lora", "full"]
Quantization = Literal["none", "8bit", "4bit"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]

# Files that decide what a model computes, or how it reads text.
MODEL_SUFFIXES = (".safetensors", ".json", ".model", ".txt")
# Read at both ends of each file; the middle of gigabytes of weights is not.
SAMPLED_BYTES = 1 << 20


@dataclass(frozen=True)
class PretrainedSpec:
    """A pretrained model, and how it takes part.

    Attributes:
        model: Path of its folder, or its id on the Hugging Face hub.
        revision: Commit, branch or tag on the hub; a loaded model has its commit here.
        training: frozen: as it is. lora: with adapters (Hu et al. 2021). full: all its weights.
        lora_rank: Rank of the adapters.
        lora_alpha: Their scale, relative to the rank.
        lora_modules: Names of the layers that have one; empty: all linear layers.
        quantization: Type in which the weights of a model that is not trained rest.
        attention: Kernel of the attention; auto: the best for the device.
        fingerprint: SHA-256 over names, sizes and both ends of its files, of a folder.
    """

    model: str
    revision: str | None = None
    training: Training = "frozen"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_modules: tuple[str, ...] = ()
    quantization: Quantization = "none"
    attention: Attention = "auto"
    fingerprint: str | None = None

    def pinned(self) -> PretrainedSpec:
        """This spec with the revision and the fingerprint of what is there now.

        Raises:
            ConfigError: there is no such model.
        """
        folder = Path(self.model)
        if folder.is_dir():
            return replace(self, revision=None, fingerprint=fingerprint_of(folder))
        commit = getattr(_config_of(self), "_commit_hash", None)
        return replace(self, revision=commit or self.revision)

    def require_unchanged(self) -> None:
        """Check that a folder still holds the model that this spec was made of.

        Raises:
            ArtifactError: it is gone, or holds another one.
        """
        if self.fingerprint is None:
            return
        folder = Path(self.model)
        if not folder.is_dir():
            raise ArtifactError(
                f"This model was trained on top of the pretrained model {self.model}, which is not "
                "there. A bundle holds only what was trained: put the pretrained model back at "
                "this path, or name its place with DIFFLM_PRETRAINED=FOLDER."
            )
        found = fingerprint_of(folder)
        if found != self.fingerprint:
            raise ArtifactError(
                f"{self.model}: this is not the pretrained model that this one was trained on top "
                f"of (fingerprint {found[:12]}, expected {self.fingerprint[:12]}). Put that one "
                "back, or train again."
            )


def fingerprint_of(folder: Path) -> str:
    """SHA-256 over the names, sizes and both ends of a model's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix not in MODEL_SUFFIXES:
            continue
        size = path.stat().st_size
        with path.open("rb") as file:
            ends = file.read(SAMPLED_BYTES)
            if size > SAMPLED_BYTES:
                file.seek(max(SAMPLED_BYTES, size - SAMPLED_BYTES))
                ends += file.read(SAMPLED_BYTES)
        digest.update(f"{path.name}:{size}:{hashlib.sha256(ends).hexdigest()}\n".encode())
    return digest.hexdigest()


def load_language_model(spec: PretrainedSpec, compute: Compute, *, key: str = "vae.decoder") -> Any:
    """Load a causal language model, with adapters where they are asked for.

    Weights that are trained are in float32; others in the precision of `compute`.

    Args:
        spec: The model.
        compute: Where it will run.
        key: The setting that names the model, for messages.

    Raises:
        ConfigError: it cannot be had, or what it needs is not installed.
    """
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if spec.training == "full" else compute.precision
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": _attention(spec, compute)}
    if spec.quantization != "none":
        options["quantization_config"] = _quantization(spec, compute)
    model = _load(AutoModelForCausalLM, spec, key, options)
    if compute.device.type == "cpu" and spec.attention == "auto":
        model.set_attn_implementation(TIME_MAJOR)
    if spec.training != "full":
        model.requires_grad_(False)
    if spec.training == "lora":
        model = _with_adapters(model, spec)
    return model


def load_encoder(spec: PretrainedSpec) -> nn.Module:
    """Load a bidirectional encoder.

    Raises:
        ConfigError: it cannot be had.
    """
    from transformers import AutoModel

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    model = _load(AutoModel, spec, "vae.encoder", options)
    if spec.training != "full":
        model.requires_grad_(False)
    # A pooler is no part of the last hidden states; it would be trained by nothing.
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def load_encoder_tokenizer(spec: PretrainedSpec) -> Tokenizer:
    """Load an encoder's tokenizer, set to cut what the encoder cannot read.

    Raises:
        ConfigError: there is no such model, or it has no fast tokenizer.
    """
    from transformers import AutoTokenizer

    longest = _longest(_config_of(spec))
    loaded: Any = AutoTokenizer.from_pretrained(spec.model, revision=spec.revision)
    if getattr(loaded, "backend_tokenizer", None) is None:
        raise ConfigError(
            f"vae.encoder = {spec.model!r}: it has no fast tokenizer (tokenizer.json); choose a "
            "model that has one."
        )
    tokenizer: Tokenizer = loaded.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=longest)
    return tokenizer


def prefix_of(
    spec: PretrainedSpec, instruction: str | None, *, chat_template: bool = False
) -> tuple[int, ...]:
    """Token ids that stand before a document: the model's start token, and an instruction.

    Args:
        spec: The language model.
        instruction: What it reads first; None: nothing.
        chat_template: Whether the instruction is put as a user's turn.

    Raises:
        ConfigError: the model has no chat template.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(spec.model, revision=spec.revision)
    if chat_template:
        if not tokenizer.chat_template:
            raise ConfigError(
                f"vae.chat_template = true: {spec.model} has no chat template. Set it to false, or "
                "choose a model that follows instructions."
            )
        turn = [{"role": "user", "content": instruction or ""}]
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
    else:
        ids = tokenizer(instruction or "").input_ids
    ends = {tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)}
    while ids and ids[-1] in ends and ids[-1] != tokenizer.bos_token_id:
        ids = ids[:-1]
    return tuple(ids)


def _longest(config: Any) -> int:
    longest = getattr(config, "max_position_embeddings", None) or 512
    return int(min(longest - 2, 4096))  # RoBERTa's positions begin at 2


def _load(loader: Any, spec: PretrainedSpec, key: str, options: dict[str, Any]) -> Any:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the stage has its own
    try:
        # Weights in safetensors alone: another file could run code when it is read.
        return loader.from_pretrained(
            spec.model, revision=spec.revision, use_safetensors=True, **options
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(_absent(spec, key, error)) from None


def _absent(spec: PretrainedSpec, key: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{key} = {spec.model!r}: the model cannot be loaded ({reason}). Expected the folder of a "
        "Hugging Face model (config.json, model.safetensors, tokenizer.json), or a hub id that can "
        "be downloaded or is in the cache."
    )


def _config_of(spec: PretrainedSpec) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(spec.model, revision=spec.revision)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(_absent(spec, "vae.decoder or vae.encoder", error)) from None


def _attention(spec: PretrainedSpec, compute: Compute) -> str:
    if spec.attention != "auto":
        return spec.attention
    if compute.device.type == "cuda" and compute.precision == torch.bfloat16:
        from transformers.utils.import_utils import is_flash_attn_2_available

        return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"
    return "sdpa"


def _quantization(spec: PretrainedSpec, compute: Compute) -> Any:
    import importlib.util

    if spec.training == "full":
        raise ConfigError(
            f"vae.quantization = {spec.quantization!r} does not go with vae.decoder_training = "
            "'full': quantized weights are not trained. Set decoder_training to lora or frozen, or "
            "quantization to none."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"vae.quantization = {spec.quantization!r}: the package bitsandbytes is not installed "
            "here. Install it (pip install bitsandbytes), or set vae.quantization=none."
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_8bit=spec.quantization == "8bit",
        load_in_4bit=spec.quantization == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=compute.precision,
    )


def _with_adapters(model: Any, spec: PretrainedSpec) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ConfigError(
            "Adapters (lora) need the package peft, which is not installed here. Install it: "
            "pip install 'difflm-on-ray[pretrained]'; or train without them "
            "(vae.decoder_training=frozen)."
        ) from None
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        target_modules=list(spec.lora_modules) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError:
        linear = {
            n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)
        }
        raise ConfigError(
            f"vae.lora_modules = {list(spec.lora_modules)}: {spec.model} has no such layers. "
            f"Expected names among: {', '.join(sorted(linear))}."
        ) from None
