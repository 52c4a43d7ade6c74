"""The text-VAE: encoder, latent injection and decoder as one module.

Two families share it: records of a table (`RecordVae`: slots of a grammar), and documents
(`document_model.DocumentVae`: text of any length).

Shape legend: B batch, T slots, D latent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from difflm_core.codec.grammar import Grammar
from difflm_core.vae.decoder import DecoderSize, RecordDecoder, build_language_model
from difflm_core.vae.encoder import EncoderSize, RecordEncoder
from difflm_core.vae.injection import InjectionMode, LatentInjector
from difflm_core.vae.objective import sample_posterior

if TYPE_CHECKING:
    from difflm_core.vae.document_rows import DocumentRows


# What the model reads of some records: token ids of a table's rows [B, T], or documents.
Rows: TypeAlias = "Tensor | DocumentRows"


class TextVae(nn.Module, ABC):
    """A record's posterior q(z | x), and its likelihood p(x | z).

    Attributes:
        decoder: Called with rows and latents [B, D] (None: the language model alone), gives the
            negative log-likelihood of each record in nats, shape [B].
        encoder: Reads records into a posterior.
        latent_dim: Dimensions of the latent, D.
        rows_at_once: Records that an evaluation reads in one call.
    """

    decoder: Any
    encoder: Any
    latent_dim: int
    rows_at_once: int = 512

    def use_precision(self, precision: torch.dtype) -> TextVae:
        """Multiply the matrices of encoder and decoder in `precision` from now on."""
        self.encoder.precision = self.decoder.precision = precision
        return self

    @abstractmethod
    def posterior(self, rows: Any) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each of shape [B, D]."""

    @abstractmethod
    def matrix_blocks(self) -> Sequence[nn.Module]:
        """Parts whose matrices Muon may train: transformers' blocks that start at random."""

    def pretrained_parameters(self) -> frozenset[str]:
        """Names of trained parameters that do not start at random."""
        return frozenset()

    def forward(
        self, rows: Any, noise_BD: Tensor | None, latent_noise_BD: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Negative log-likelihood [B] in nats, and mean and log-variance [B, D] of the posterior.

        All that training and validation need goes through here: where weights are shared out
        among workers, they are put together for the call of the whole module.

        Args:
            rows: Records, B of them.
            noise_BD: Standard normal noise of the posterior sample. None: the language model
                alone, with the prior as its posterior.
            latent_noise_BD: Added to the decoder's latent.
        """
        if noise_BD is None:
            nll_B = self.decoder(rows, None)
            none_BD = torch.zeros(len(rows), self.latent_dim, device=nll_B.device)
            return nll_B, none_BD, none_BD
        mean_BD, logvar_BD = self.posterior(rows)
        z_BD = sample_posterior(mean_BD, logvar_BD, noise_BD)
        if latent_noise_BD is not None:
            z_BD = z_BD + latent_noise_BD
        return self.decoder(rows, z_BD), mean_BD, logvar_BD


@dataclass(frozen=True)
class VaeSize:
    """Architecture of a text-VAE of records.

    Attributes:
        decoder: Size of the language model.
        encoder: Size of the encoder.
        latent_dim: Dimensions of the latent.
        num_prompts: Soft prompts (or memories) that carry the latent.
        injection: How the latent reaches the decoder.
        hidden_slots: Slots that the encoder does not see.
    """

    decoder: DecoderSize
    encoder: EncoderSize
    latent_dim: int
    num_prompts: int
    injection: InjectionMode = "soft_prompt"
    hidden_slots: tuple[int, ...] = ()


class RecordVae(TextVae):
    """A text-VAE of records of one grammar; rows are token ids [B, T]."""

    seen_T1: Tensor

    def __init__(self, size: VaeSize, grammar: Grammar) -> None:
        """Build encoder, injector and decoder with random weights."""
        super().__init__()
        self.size = size
        self.latent_dim = size.latent_dim
        injector = LatentInjector(
            size.injection,
            latent_dim=size.latent_dim,
            num_prompts=size.num_prompts,
            width=size.decoder.width,
            num_layers=size.decoder.num_layers,
            num_heads=size.decoder.num_heads,
        )
        language_model = build_language_model(grammar, size.decoder, injector.num_prompts)
        self.decoder = RecordDecoder(language_model, grammar, injector)
        self.encoder = RecordEncoder(
            size.encoder, num_slots=len(grammar), latent_dim=size.latent_dim
        )
        seen_T1 = torch.ones(len(grammar), 1)
        seen_T1[list(size.hidden_slots)] = 0.0
        self.register_buffer("seen_T1", seen_T1, persistent=False)

    def posterior(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each of shape [B, D]."""
        return self.encoder(self.decoder.embeddings(rows) * self.seen_T1)

    def matrix_blocks(self) -> Sequence[nn.Module]:
        """The blocks of both transformers, and the encoder's mixing matrix."""
        return [
            self.decoder.language_model.transformer.h,
            self.encoder.bert.encoder,
            self.encoder.mix,
        ]
