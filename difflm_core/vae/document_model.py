"""The text-VAE of documents: compact models from scratch, or pretrained ones.

Shape legend: B batch, D latent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from difflm_core.device import Compute
from difflm_core.vae.attention import TIME_MAJOR
from difflm_core.vae.decoder import DecoderSize
from difflm_core.vae.document_decoder import DocumentDecoder
from difflm_core.vae.document_encoder import DocumentEncoder, PretrainedEncoder
from difflm_core.vae.document_rows import PAD, DocumentRows
from difflm_core.vae.encoder import EncoderSize
from difflm_core.vae.injection import InjectionMode, LatentInjector
from difflm_core.vae.model import TextVae
from difflm_core.vae.pretrained import (
    PretrainedSpec,
    load_encoder,
    load_encoder_tokenizer,
    load_language_model,
)

# A folder where pretrained models are looked for by the name of their own folder.
PRETRAINED_VARIABLE = "DIFFLM_PRETRAINED"


@dataclass(frozen=True)
class DocumentVaeSize:
    """Architecture of a text-VAE of documents.

    Attributes:
        decoder: Size of a language model from scratch, or a pretrained one.
        encoder: Size of an encoder from scratch, or a pretrained one.
        vocab_size: Token ids of the codec.
        max_tokens: Longest document, in tokens.
        latent_dim: Dimensions of the latent.
        num_prompts: Soft prompts (or memories) that carry the latent.
        injection: How the latent reaches the decoder.
        prefix: Token ids that stand before prompts and document: the start, an instruction.
    """

    decoder: DecoderSize | PretrainedSpec
    encoder: EncoderSize | PretrainedSpec
    vocab_size: int
    max_tokens: int
    latent_dim: int
    num_prompts: int
    injection: InjectionMode = "soft_prompt"
    prefix: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON form; inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DocumentVaeSize:
        """Inverse of `to_json`."""
        decoder, encoder = data["decoder"], data["encoder"]
        values: dict[str, Any] = {
            **data,
            "decoder": _spec(decoder) if "model" in decoder else DecoderSize(**decoder),
            "encoder": _spec(encoder) if "model" in encoder else EncoderSize(**encoder),
            "prefix": tuple(data["prefix"]),
        }
        return cls(**values)


def _spec(data: dict[str, Any]) -> PretrainedSpec:
    values: dict[str, Any] = {**data, "lora_modules": tuple(data["lora_modules"])}
    return PretrainedSpec(**values)


class DocumentVae(TextVae):
    """A text-VAE of documents.

    Attributes:
        size: Its architecture.
        encoder_tokenizer: What a pretrained encoder reads with; None: it reads the decoder's
            tokens.
    """

    rows_at_once = 32

    def __init__(self, size: DocumentVaeSize, compute: Compute) -> None:
        """Build the model: pretrained parts as they are, all else with random weights.

        Args:
            size: Its architecture.
            compute: Where and in which precision it will run; decides how a pretrained model is
                loaded.

        Raises:
            ConfigError: a pretrained part cannot be had.
            ArtifactError: a pretrained part is another than the one that `size` names.
        """
        super().__init__()
        self.size = size
        self.latent_dim = size.latent_dim
        language_model = self._language_model(compute)
        injector = _injector(size, language_model)
        frozen = isinstance(size.decoder, PretrainedSpec) and size.decoder.training != "full"
        self.decoder = DocumentDecoder(language_model, injector, prefix=size.prefix, frozen=frozen)
        if isinstance(size.decoder, PretrainedSpec):
            self.decoder.require_same_logits()
            _start_prompts(self.decoder)
        self.encoder_tokenizer = encoder_tokenizer(size)
        self.encoder = self._encoder()

    def _language_model(self, compute: Compute) -> Any:
        size = self.size
        if isinstance(size.decoder, PretrainedSpec):
            return load_language_model(located(size.decoder), compute)
        positions = size.max_tokens + len(size.prefix) + 2 * size.num_prompts + 1
        return build_compact_model(size.vocab_size, size.decoder, positions)

    def _encoder(self) -> DocumentEncoder | PretrainedEncoder:
        size = self.size
        if isinstance(size.encoder, PretrainedSpec):
            frozen = size.encoder.training != "full"
            model = load_encoder(located(size.encoder))
            return PretrainedEncoder(model, latent_dim=size.latent_dim, frozen=frozen)
        return DocumentEncoder(
            size.encoder,
            input_width=int(self.decoder.injector.null_prompts.shape[1]),
            max_tokens=size.max_tokens,
            latent_dim=size.latent_dim,
        )

    def posterior(self, rows: DocumentRows) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each of shape [B, D]."""
        if rows.read_BS is not None:
            return self.encoder(rows.read_BS)
        embeddings = self.decoder.embeddings(rows.ids_BT.clamp(min=0))
        return self.encoder(embeddings.float(), rows.ids_BT != PAD)

    def matrix_blocks(self) -> Sequence[nn.Module]:
        """The blocks of those transformers that start at random."""
        blocks: list[nn.Module] = []
        if isinstance(self.size.decoder, DecoderSize):
            blocks.append(self.decoder.language_model.gpt_neox.layers)
        if isinstance(self.encoder, DocumentEncoder):
            blocks.append(self.encoder.bert.encoder)
        return blocks

    def pretrained_parameters(self) -> frozenset[str]:
        """Names of trained parameters that do not start at random, adapters included."""
        starts = [
            prefix
            for prefix, part in (
                ("decoder.language_model.", self.size.decoder),
                ("encoder.model.", self.size.encoder),
            )
            if isinstance(part, PretrainedSpec)
        ]
        return frozenset(
            name
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and name.startswith(tuple(starts))
        )


def build_compact_model(
    vocab_size: int, size: DecoderSize, num_positions: int
) -> GPTNeoXForCausalLM:
    """A compact GPT-NeoX for documents, with random weights.

    Rotary positions learn what stands near what from far fewer documents than learned ones do
    (docs/adr/0025).
    """
    config = GPTNeoXConfig(
        vocab_size=vocab_size,
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        max_position_embeddings=num_positions,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
        },
        hidden_dropout=size.dropout,
        attention_dropout=0.0,
        use_parallel_residual=True,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    language_model = GPTNeoXForCausalLM(config)
    language_model.set_attn_implementation(TIME_MAJOR)
    return language_model


def _injector(size: DocumentVaeSize, language_model: Any) -> LatentInjector:
    config = language_model.config.get_text_config()
    heads = config.num_attention_heads
    width = int(language_model.get_input_embeddings().embedding_dim)
    return LatentInjector(
        size.injection,
        latent_dim=size.latent_dim,
        num_prompts=size.num_prompts,
        width=width,
        num_layers=config.num_hidden_layers,
        num_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


@torch.no_grad()
def _start_prompts(decoder: DocumentDecoder) -> None:
    """Begin the prompts of a pretrained model as embeddings of its own tokens."""
    if len(decoder.prefix_C):
        ids = decoder.prefix_C
    else:
        generator = torch.Generator().manual_seed(torch.initial_seed())
        ids = torch.randint(decoder.vocab_size, (64,), generator=generator)
    decoder.injector.start_prompts_at(decoder.embeddings(ids).float())


def encoder_tokenizer(size: DocumentVaeSize) -> Tokenizer | None:
    """What a pretrained encoder reads with; None: it reads the decoder's tokens.

    Raises:
        ConfigError: it has no fast tokenizer.
        ArtifactError: the encoder is another than the one that `size` names.
    """
    if isinstance(size.encoder, PretrainedSpec):
        return load_encoder_tokenizer(located(size.encoder))
    return None


def located(spec: PretrainedSpec) -> PretrainedSpec:
    """This spec with the path where its model is on this machine, after checking that it is it."""
    places = os.environ.get(PRETRAINED_VARIABLE)
    if places and not Path(spec.model).is_dir():
        candidate = Path(places) / Path(spec.model).name
        if candidate.is_dir():
            spec = replace(spec, model=str(candidate))
    spec.require_unchanged()
    return spec
