"""The encoder: a bidirectional Hugging Face model that reads a record into a Gaussian posterior.

Shape legend: B batch, T slots, E width, D latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from difflm_core.device import autocast
from difflm_core.vae.attention import TIME_MAJOR

# Bounds of the posterior's log-variance: a standard deviation between 0.02 and 1.65.
MIN_LOGVAR, MAX_LOGVAR = -8.0, 1.0


@dataclass(frozen=True)
class EncoderSize:
    """Size of a compact encoder.

    Attributes:
        width: Model width E; that of the decoder, whose token embeddings it reads.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        feed_forward: Width of the feed-forward layers.
    """

    width: int = 128
    num_layers: int = 1
    num_heads: int = 4
    feed_forward: int = 256


def build_compact_encoder(size: EncoderSize, num_positions: int) -> BertModel:
    """A compact BERT with random weights that reads embeddings; it has no vocabulary of its own."""
    config = BertConfig(
        vocab_size=1,
        hidden_size=size.width,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=num_positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    bert = BertModel(config, add_pooling_layer=False)
    bert.set_attn_implementation(TIME_MAJOR)
    return bert


class RecordEncoder(nn.Module):
    """Reads token embeddings into the mean and log-variance of q(z | record)."""

    def __init__(self, size: EncoderSize, *, num_slots: int, latent_dim: int) -> None:
        """Build the encoder for records of `num_slots` slots."""
        super().__init__()
        self.bert = build_compact_encoder(size, num_slots + 1)
        self.precision = torch.float32
        self.summary = nn.Parameter(torch.randn(1, 1, size.width) * 0.02)
        self.mix = nn.Linear(num_slots * size.width, 2 * size.width)
        self.posterior = nn.Linear(3 * size.width, 2 * latent_dim)

    def forward(self, embeddings_BTE: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, each of shape [B, D]."""
        batch = embeddings_BTE.shape[0]
        inputs = torch.cat([self.summary.expand(batch, -1, -1), embeddings_BTE], dim=1)
        with autocast(inputs.device, self.precision):
            states = self.bert(inputs_embeds=inputs).last_hidden_state
            mixed = nn.functional.gelu(self.mix(states[:, 1:].flatten(1)))
        summary = torch.cat([states[:, 0].float(), mixed.float()], dim=1)
        mean, logvar = self.posterior(summary).chunk(2, dim=1)
        return mean, logvar.clamp(MIN_LOGVAR, MAX_LOGVAR)
