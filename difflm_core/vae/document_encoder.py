"""Encoders of documents: a compact one from scratch, or any pretrained Hugging Face encoder.

Shape legend: B batch, T tokens, S tokens of the encoder's own tokenizer, E width, D latent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from difflm_core.device import autocast
from difflm_core.vae.document_rows import PAD
from difflm_core.vae.encoder import (
    MAX_LOGVAR,
    MIN_LOGVAR,
    EncoderSize,
    build_compact_encoder,
)


class DocumentEncoder(nn.Module):
    """Reads the decoder's token embeddings into the mean and log-variance of q(z | document)."""

    def __init__(
        self, size: EncoderSize, *, input_width: int, max_tokens: int, latent_dim: int
    ) -> None:
        """Build the encoder.

        Args:
            size: Of the transformer.
            input_width: Width of the decoder's token embeddings.
            max_tokens: Longest document, in tokens.
            latent_dim: Dimensions of the latent, D.
        """
        super().__init__()
        self.bert = build_compact_encoder(size, max_tokens + 1)
        self.precision = torch.float32
        self.project = nn.Linear(input_width, size.width)
        self.summary = nn.Parameter(torch.randn(1, 1, size.width) * 0.02)
        self.posterior = nn.Linear(2 * size.width, 2 * latent_dim)

    def forward(self, embeddings_BTE: Tensor, there_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, each of shape [B, D].

        Args:
            embeddings_BTE: Token embeddings.
            there_BT: Mask of the tokens that are not filled up.
        """
        batch = embeddings_BTE.shape[0]
        with autocast(embeddings_BTE.device, self.precision):
            tokens = self.project(embeddings_BTE)
            inputs = torch.cat([self.summary.expand(batch, -1, -1).to(tokens.dtype), tokens], dim=1)
            mask = nn.functional.pad(there_BT, (1, 0), value=True)
            states = self.bert(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
        return _posterior(states[:, 0].float(), states[:, 1:], there_BT, self.posterior)


class PretrainedEncoder(nn.Module):
    """A pretrained bidirectional model that reads the document with its own tokenizer."""

    def __init__(self, model: Any, *, latent_dim: int, frozen: bool = False) -> None:
        """Put a posterior on top of `model`.

        Args:
            model: A `PreTrainedModel` that gives last hidden states.
            latent_dim: Dimensions of the latent, D.
            frozen: Whether the model stays as it is.
        """
        super().__init__()
        self.model = model
        self.frozen = frozen
        self.precision = torch.float32
        # The states of a pretrained model have any scale; the posterior starts near the prior.
        width = int(model.config.hidden_size)
        self.norm = nn.LayerNorm(2 * width)
        self.posterior = nn.Linear(2 * width, 2 * latent_dim)

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """As of any module; a frozen model never drops anything out."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(self, read_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, each of shape [B, D]."""
        there_BS = read_BS != PAD
        with autocast(read_BS.device, self.precision):
            states = self.model(
                input_ids=read_BS.clamp(min=0), attention_mask=there_BS.long()
            ).last_hidden_state
        first = states[:, 0].float()
        return _posterior(first, states, there_BS, nn.Sequential(self.norm, self.posterior))


def _posterior(
    first_BE: Tensor, states_BTE: Tensor, there_BT: Tensor, head: nn.Module
) -> tuple[Tensor, Tensor]:
    """Posterior from the first state and the mean of those that are there."""
    weight_BT1 = there_BT[..., None].float()
    mean_BE = (states_BTE.float() * weight_BT1).sum(dim=1) / weight_BT1.sum(dim=1).clamp(min=1)
    mean, logvar = head(torch.cat([first_BE, mean_BE], dim=1)).chunk(2, dim=1)
    return mean, logvar.clamp(MIN_LOGVAR, MAX_LOGVAR)
