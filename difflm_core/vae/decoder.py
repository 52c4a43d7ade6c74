"""The decoder: a Hugging Face causal language model that writes a record from a latent.

Only the tokens that the grammar allows at a position are scored: a slot's logits are the products
of its hidden state with its own slice of the (tied) embedding table.

Shape legend: B batch, T slots, P prompts, E width, V vocabulary, S largest slot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import Cache

from difflm_core.codec.grammar import Grammar
from difflm_core.device import autocast
from difflm_core.vae.attention import TIME_MAJOR
from difflm_core.vae.injection import LatentInjector

# Scale of ordered embeddings against GPT-2's usual 0.02: neighbours must start visibly alike.
EMBEDDING_SCALE = 0.02
ORDER_SCALE = 4.0


@dataclass(frozen=True)
class DecoderSize:
    """Size of a compact decoder.

    Attributes:
        width: Model width E.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        dropout: Dropout rate of embeddings, attention and residuals.
    """

    width: int = 128
    num_layers: int = 3
    num_heads: int = 4
    dropout: float = 0.0


class SlotTable(nn.Module):
    """The grammar as tensors: which token ids each slot may hold."""

    start: Tensor
    size: Tensor
    gate_start: Tensor
    gate_stop: Tensor
    idle: Tensor
    allowed: Tensor
    forbidden: Tensor

    def __init__(self, grammar: Grammar) -> None:
        """Register the slots of `grammar` as buffers; they are not part of the weights."""
        super().__init__()
        self.largest = int(grammar.size.max())
        for name in ("start", "size", "gate_start", "gate_stop", "idle"):
            values = torch.from_numpy(getattr(grammar, name))
            self.register_buffer(name, values, persistent=False)
        column = torch.arange(self.largest)
        inside = column < self.size[:, None]
        allowed = torch.where(inside, self.start[:, None] + column, self.start[:, None])
        penalty = torch.zeros(inside.shape).masked_fill(~inside, float("-inf"))
        self.register_buffer("allowed", allowed, persistent=False)
        self.register_buffer("forbidden", penalty, persistent=False)

    def live(self, ids_BT: Tensor) -> Tensor:
        """Mask [B, T] of positions that carry information (see `Grammar.live`)."""
        before = ids_BT[:, :-1]
        live = (before >= self.gate_start[1:]) & (before < self.gate_stop[1:])
        return F.pad(live, (1, 0), value=True)


class RecordDecoder(nn.Module):
    """A causal language model over the slots of a record, conditioned on a latent."""

    def __init__(
        self, language_model: GPT2LMHeadModel, grammar: Grammar, injector: LatentInjector
    ) -> None:
        """Join a language model, the grammar of its records and the injection of latents."""
        super().__init__()
        self.language_model = language_model
        self.slots = SlotTable(grammar)
        self.injector = injector
        self.precision = torch.float32

    @property
    def embeddings(self) -> nn.Embedding:
        """The token embeddings, tied to the output."""
        return self.language_model.transformer.wte

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass instead of keeping them.

        Raises:
            ConfigError: the latent comes as keys and values, which a second pass would add again.
        """
        self.injector.require_recomputable()
        self.language_model.gradient_checkpointing_enable()

    def forward(self, ids_BT: Tensor, z_BD: Tensor | None) -> Tensor:
        """Negative log-likelihood of each record in nats, shape [B].

        Args:
            ids_BT: Token ids.
            z_BD: Latents; None trains or scores the language model alone.
        """
        hidden_BTE = self.hidden_states(ids_BT, z_BD)
        logits_BTS = self.slot_logits(hidden_BTE)
        live_BT = self.slots.live(ids_BT)
        local_BT = torch.where(live_BT, ids_BT - self.slots.start, 0)
        loss_BT = F.cross_entropy(logits_BTS.transpose(1, 2), local_BT, reduction="none")
        return (loss_BT * live_BT).sum(dim=1)

    def hidden_states(self, ids_BT: Tensor, z_BD: Tensor | None) -> Tensor:
        """States that predict each slot, shape [B, T, E]."""
        tokens_BTE = self.embeddings(ids_BT[:, :-1])
        shift = self.injector.token_shift(z_BD)
        if shift is not None:
            tokens_BTE = tokens_BTE + shift
        prompts_BPE = self.injector.prompts(z_BD, ids_BT.shape[0])
        inputs = torch.cat([prompts_BPE, tokens_BTE], dim=1)
        cache = self.start_cache(z_BD, ids_BT.shape[0])
        return self.transform(inputs, cache, 0)[:, self.injector.num_prompts - 1 :]

    def transform(self, inputs_BNE: Tensor, cache: Cache | None, position: int) -> Tensor:
        """Last hidden states [B, N, E] of inputs at positions `position ..`, in float32."""
        positions = torch.arange(position, position + inputs_BNE.shape[1], device=inputs_BNE.device)
        with autocast(inputs_BNE.device, self.precision):
            output = self.language_model.transformer(
                inputs_embeds=inputs_BNE,
                past_key_values=cache,
                use_cache=cache is not None,
                position_ids=positions[None],
            )
        return output.last_hidden_state.float()

    def start_cache(self, z_BD: Tensor | None, batch: int) -> DynamicCache | None:
        """Cache that holds the latent's key/value memories; None when there are none."""
        memories = self.injector.memories(z_BD, batch)
        if not memories:
            return None
        cache = DynamicCache(config=self.language_model.config)
        for layer, (keys, values) in enumerate(memories):
            cache.update(keys, values, layer)
        return cache

    def slot_logits(self, hidden_BTE: Tensor) -> Tensor:
        """Logits over the allowed tokens of every slot, shape [B, T, S], -inf beyond its size."""
        table_TSE = self.embeddings.weight[self.slots.allowed]
        logits_TBS = torch.bmm(hidden_BTE.transpose(0, 1), table_TSE.transpose(1, 2))
        return logits_TBS.transpose(0, 1) + self.slots.forbidden


def build_language_model(grammar: Grammar, size: DecoderSize, num_prompts: int) -> GPT2LMHeadModel:
    """A compact GPT-2 for the records of `grammar`, with random weights."""
    config = GPT2Config(
        vocab_size=grammar.vocab_size,
        n_positions=len(grammar) + num_prompts,
        n_embd=size.width,
        n_layer=size.num_layers,
        n_head=size.num_heads,
        activation_function="gelu",  # the exact GELU is one fused kernel on a CPU
        resid_pdrop=size.dropout,
        embd_pdrop=size.dropout,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=True,
    )
    language_model = GPT2LMHeadModel(config)
    language_model.set_attn_implementation(TIME_MAJOR)
    return language_model


@torch.no_grad()
def order_embeddings(
    embeddings: nn.Embedding,
    order_V: npt.NDArray[np.float64],
    slots: Grammar,
    generator: torch.Generator,
) -> None:
    """Start the embeddings of ordered tokens ordered.

    Each slot's tokens become a common base plus a random projection of cosine features of their
    relative position r: cos(pi k r) / sqrt(k), k = 1 .. E/4. Tokens without order keep theirs.
    """
    width = embeddings.embedding_dim
    num_features = width // 4
    k = torch.arange(1, num_features + 1)
    scale = EMBEDDING_SCALE * ORDER_SCALE
    ranges = {(slot.start, slot.stop) for slot in slots.slots}
    for start, stop in sorted(ranges):
        order = torch.from_numpy(order_V[start:stop]).float()
        ordered = ~order.isnan()
        if int(ordered.sum()) < 2:
            continue
        features = torch.cos(math.pi * order[ordered, None] * k) / k.sqrt()
        features = features / features.pow(2).sum(dim=1).mean().sqrt()
        projection = torch.randn(num_features, width, generator=generator)
        base = torch.randn(1, width, generator=generator)
        # Features have unit mean square norm: a projected coordinate then has unit variance.
        vectors = scale * (features @ projection) + EMBEDDING_SCALE * base
        embeddings.weight[start:stop][ordered] = vectors.to(embeddings.weight.dtype)
