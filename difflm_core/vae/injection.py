"""How a latent reaches the language model.

Source: DiffLM (arXiv 2411.03250), section 3.3, which compares three ways, and its code:

- soft_prompt: the latent becomes P embeddings in front of the sequence (the paper's choice);
- prefix_soft_prompt: the same, after P learned prompts that are the same for every record;
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

from difflm_core.errors import ConfigError

InjectionMode = Literal["soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embedding"]
# Widest hidden layer of the map: between a latent and the prompts of a model of billions of
# parameters, more would only be memory.
MAX_HIDDEN = 512


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
        head_width: int | None = None,
    ) -> None:
        """Build the map for a decoder.

        Args:
            mode: How the latent reaches it.
            latent_dim: Dimensions of the latent, D.
            num_prompts: Soft prompts or memories that carry it.
            width: Width of the decoder's embeddings, E.
            num_layers: Its layers, L.
            num_heads: Its heads of keys and values, H.
            head_width: Width of such a head, K; None: the heads share `width`.
        """
        super().__init__()
        self.mode = mode
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.num_memories = num_prompts if mode == "kv_memory" else 0
        # The prompt that predicts the first token is always there; only soft prompts need more.
        self.num_prompts = {"soft_prompt": num_prompts, "prefix_soft_prompt": 2 * num_prompts}.get(
            mode, 1
        )
        self.null_prompts = nn.Parameter(torch.randn(self.num_prompts, width) * 0.02)
        memory = num_heads * (head_width or width // num_heads)
        outputs = {
            "soft_prompt": num_prompts * width,
            "prefix_soft_prompt": num_prompts * width,
            "kv_memory": num_layers * 2 * num_prompts * memory,
            "input_embedding": width,
        }[mode]
        hidden = min(2 * width, MAX_HIDDEN)
        self.hidden = nn.Sequential(nn.Linear(latent_dim, hidden), nn.GELU())
        self.output = nn.Linear(hidden, outputs)
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
        effect = effect.view(batch, -1, prompts.shape[-1])
        # Prompts that the latent does not reach stand before those that it does.
        fixed = self.num_prompts - effect.shape[1]
        return torch.cat([prompts[:, :fixed], prompts[:, fixed:] + effect], dim=1)

    def require_recomputable(self) -> None:
        """Check that activations may be computed again in the backward pass.

        Raises:
            ConfigError: the latent comes as keys and values, which a second pass would add again.
        """
        if self.num_memories:
            raise ConfigError(
                "runtime.activation_checkpointing = true does not go with vae.injection = "
                "'kv_memory'. Set one of them otherwise: activation_checkpointing=false, or "
                "injection=soft_prompt."
            )

    @torch.no_grad()
    def start_prompts_at(self, embeddings_NE: Tensor) -> None:
        """Begin the null prompts as these embeddings, over and over; shape [N, E].

        A pretrained model makes more of prompts that look like its tokens.
        """
        index = torch.arange(self.num_prompts) % len(embeddings_NE)
        self.null_prompts.copy_(embeddings_NE[index.to(embeddings_NE.device)])

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
