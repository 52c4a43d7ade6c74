"""How a latent reaches the language model.

Source: DiffLM (arXiv 2411.03250), section 3.3, which compares three ways:

- soft_prompt: the latent becomes P embeddings in front of the sequence (the paper's choice);
- kv_memory: it becomes P extra key/value pairs in every layer;
- input_embedding: it is added to the embedding of every token.

Each starts at exactly zero effect, so that a language model trained before sees no difference at
first: the last layer is zero and the prompts start as the learned *null prompts*, which also
stand for "no latent".

Shape legend: B batch, D latent, P prompts, E model width, L layers, H heads, K head width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

InjectionMode = Literal["soft_prompt", "kv_memory", "input_embedding"]


class LatentInjector(nn.Module):
    """Maps latents to what the decoder takes beside its tokens."""

    def __init__(
        self,
        mode: InjectionMode,
        *,
        latent_dim: int,
        num_prompts: int,
        width: int,
        num_layers: int,
        num_heads: int,
    ) -> None:
        """Build the map for a decoder of the given `width`, layers and heads."""
        super().__init__()
        self.mode = mode
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.num_memories = num_prompts if mode == "kv_memory" else 0
        # The prompt that predicts the first token is always there; only soft prompts need more.
        self.num_prompts = num_prompts if mode == "soft_prompt" else 1
        self.null_prompts = nn.Parameter(torch.randn(self.num_prompts, width) * 0.02)
        outputs = {
            "soft_prompt": num_prompts * width,
            "kv_memory": num_layers * 2 * num_prompts * width,
            "input_embedding": width,
        }[mode]
        self.hidden = nn.Sequential(nn.Linear(latent_dim, 2 * width), nn.GELU())
        self.output = nn.Linear(2 * width, outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def prompts(self, z_BD: Tensor | None, batch: int) -> Tensor:
        """Prompt embeddings, shape [B, P, E]; `z_BD` None gives the null prompts."""
        prompts = self.null_prompts.expand(batch, -1, -1)
        if z_BD is None or self.mode == "kv_memory":
            return prompts
        effect = self.output(self.hidden(z_BD))
        if self.mode == "input_embedding":
            return prompts + effect[:, None]
        return prompts + effect.view(batch, self.num_prompts, -1)

    def token_shift(self, z_BD: Tensor | None) -> Tensor | None:
        """What is added to every token embedding, shape [B, 1, E], or None."""
        if z_BD is None or self.mode != "input_embedding":
            return None
        return self.output(self.hidden(z_BD))[:, None]

    def memories(self, z_BD: Tensor | None, batch: int) -> list[tuple[Tensor, Tensor]]:
        """Key/value pairs of each layer, shapes [B, H, P, K]; empty for the other modes.

        A zero key/value pair still takes its share of the attention's softmax. The language model
        alone therefore has zero memories in place too, and the latent starts at no effect.
        """
        if self.mode != "kv_memory":
            return []
        if z_BD is None:
            flat = self.null_prompts.new_zeros(batch, self.output.out_features)
        else:
            flat = self.output(self.hidden(z_BD))
        pairs = flat.view(batch, self.num_layers, 2, self.num_memories, self.num_heads, -1)
        pairs = pairs.permute(1, 2, 0, 4, 3, 5)
        return [(layer[0], layer[1]) for layer in pairs]
