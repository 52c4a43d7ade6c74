"""The decoder of documents: any Hugging Face causal language model, with latents injected.

What it reads is [start and instruction] [soft prompts] [document]; the last soft prompt predicts
the document's first token. Documents are filled up at their end, so that causal attention alone
hides what is not there.

Shape legend: B batch, T tokens of a document, P prompts, C tokens before them, E width, V
vocabulary, N positions of one call, M tokens that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache

from difflm_core.device import autocast
from difflm_core.errors import ConfigError
from difflm_core.vae.document_rows import PAD, DocumentRows
from difflm_core.vae.injection import LatentInjector


class DocumentDecoder(nn.Module):
    """A causal language model of documents, conditioned on a latent."""

    prefix_C: Tensor

    def __init__(
        self,
        language_model: Any,
        injector: LatentInjector,
        *,
        prefix: Sequence[int] = (),
        frozen: bool = False,
    ) -> None:
        """Join a language model and the injection of latents.

        Args:
            language_model: A `PreTrainedModel` for causal language modelling, or one with adapters.
            injector: Turns latents into what the model reads.
            prefix: Token ids before the prompts: the start token, an instruction.
            frozen: Whether the language model stays as it is.
        """
        super().__init__()
        self.language_model = language_model
        self.injector = injector
        self.frozen = frozen
        self.precision = torch.float32
        self.register_buffer("prefix_C", torch.tensor(list(prefix), dtype=torch.int64), False)
        config = language_model.config.get_text_config()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale = float(getattr(config, "logit_scale", None) or 1.0)
        self._scale /= float(getattr(config, "logits_scaling", None) or 1.0)

    @property
    def embeddings(self) -> nn.Module:
        """Embeds token ids."""
        return self.language_model.get_input_embeddings()

    @property
    def vocab_size(self) -> int:
        """Token ids that the model scores, V."""
        return int(self.language_model.get_output_embeddings().weight.shape[0])

    @property
    def num_before(self) -> int:
        """Positions before the document, C + P."""
        return len(self.prefix_C) + self.injector.num_prompts

    def train(self, mode: bool = True) -> DocumentDecoder:
        """As of any module; a frozen language model never drops anything out."""
        super().train(mode)
        if self.frozen:
            self.language_model.eval()
        return self

    def lay_out_for_decoding(self) -> None:
        """Store the weights of products by columns, on a CPU in float32.

        A product with the few rows of a step of decoding then takes a fifth less time. Values and
        shapes stay as they are.
        """
        shared = self.embeddings.weight
        for module in self.language_model.modules():
            weight = module.weight if isinstance(module, nn.Linear) else None
            if weight is None or weight is shared or weight.dtype != torch.float32:
                continue
            if weight.device.type == "cpu":
                weight.data = weight.data.t().contiguous().t()

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass instead of keeping them.

        Raises:
            ConfigError: the latent comes as keys and values, which a second pass would add again.
        """
        self.injector.require_recomputable()
        self.language_model.gradient_checkpointing_enable()

    def forward(self, rows: DocumentRows, z_BD: Tensor | None) -> Tensor:
        """Negative log-likelihood of each document in nats, shape [B]; its end counts, too."""
        ids_BT = rows.ids_BT
        there_BT = ids_BT != PAD
        hidden_ME = self.hidden_states(ids_BT, z_BD)[there_BT]
        with autocast(hidden_ME.device, self.precision):
            logits_MV = self.logits(hidden_ME)
        loss_M = F.cross_entropy(logits_MV.float(), ids_BT[there_BT], reduction="none")
        row_M = there_BT.nonzero()[:, 0]
        return torch.zeros(len(ids_BT), device=loss_M.device).index_add(0, row_M, loss_M)

    def hidden_states(self, ids_BT: Tensor, z_BD: Tensor | None) -> Tensor:
        """States that predict each token, shape [B, T, E]."""
        inputs_BNE = self.start(z_BD, len(ids_BT))
        if ids_BT.shape[1] > 1:
            tokens_BTE = self.embed(ids_BT[:, :-1].clamp(min=0), z_BD)
            inputs_BNE = torch.cat([inputs_BNE, tokens_BTE], dim=1)
        cache = self._memories(z_BD, len(ids_BT))
        return self.transform(inputs_BNE, cache, 0)[:, self.num_before - 1 :]

    def start(self, z_BD: Tensor | None, batch: int) -> Tensor:
        """Embeddings of what stands before a document, shape [B, C + P, E]."""
        prompts_BPE = self.injector.prompts(z_BD, batch)
        if not len(self.prefix_C):
            return prompts_BPE
        prefix_BCE = self.embeddings(self.prefix_C).expand(batch, -1, -1)
        return torch.cat([prefix_BCE.to(prompts_BPE.dtype), prompts_BPE], dim=1)

    def embed(self, ids_BT: Tensor, z_BD: Tensor | None) -> Tensor:
        """Embeddings of tokens, shifted where the latent comes that way; shape [B, T, E]."""
        tokens_BTE = self.embeddings(ids_BT).to(self.injector.null_prompts.dtype)
        shift = self.injector.token_shift(z_BD)
        return tokens_BTE if shift is None else tokens_BTE + shift

    def transform(
        self,
        inputs_BNE: Tensor,
        cache: Cache | None,
        position: int,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states [B, N, E] of inputs at positions `position ..`.

        Args:
            inputs_BNE: Embeddings.
            cache: Keys and values before them.
            position: Of the first input.
            attention_mask: Mask [B, M + all positions so far], the injector's M memories included,
                of what is not filled up on the left; positions are then counted from each row's
                first. None: nothing is filled up.
        """
        stop = position + inputs_BNE.shape[1]
        positions = torch.arange(position, stop, device=inputs_BNE.device)[None]
        if attention_mask is not None:
            counted = attention_mask[:, self.injector.num_memories :].long().cumsum(dim=1)
            positions = (counted - 1).clamp(min=0)[:, -inputs_BNE.shape[1] :]
        weights = self.language_model.get_output_embeddings().weight
        with autocast(inputs_BNE.device, self.precision):
            output = _inner_model(self.language_model)(
                inputs_embeds=inputs_BNE.to(weights.dtype),
                past_key_values=cache,
                use_cache=cache is not None,
                position_ids=positions,
                attention_mask=attention_mask,
            )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens, shape [..., V], for hidden states [..., E]."""
        logits = self.language_model.get_output_embeddings()(hidden)
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def _memories(self, z_BD: Tensor | None, batch: int) -> DynamicCache | None:
        memories = self.injector.memories(z_BD, batch)
        if not memories:
            return None
        cache = DynamicCache(config=self.language_model.config)
        for layer, (keys, values) in enumerate(memories):
            cache.update(keys, values, layer)
        return cache

    @torch.no_grad()
    def require_same_logits(self) -> None:
        """Check that scores computed here are those of the language model itself.

        Raises:
            ConfigError: the model's head does more than is known here.
        """
        ids_BT = torch.arange(4, device=self.prefix_C.device)[None] % self.vocab_size
        inputs = self.embeddings(ids_BT)
        was_training = self.language_model.training
        self.language_model.eval()
        expected = self.language_model(inputs_embeds=inputs, use_cache=False).logits
        found = self.logits(self.transform(inputs, None, 0))
        self.language_model.train(was_training)
        scale = float(expected.float().abs().max().clamp(min=1.0))
        if not torch.allclose(found.float(), expected.float(), atol=2e-2 * scale, rtol=2e-2):
            name = type(self.language_model).__name__
            raise ConfigError(
                f"vae.decoder: {name} changes its scores in a way that is not known here. Expected "
                "a causal language model with a linear head, such as Llama, Mistral, Qwen, Gemma "
                "or GPT-2; choose another model."
            )


def _inner_model(language_model: Any) -> Any:
    """The transformer of a causal language model, without its head; adapters stay in it."""
    inner = language_model.get_base_model() if hasattr(language_model, "peft_config") else None
    return (inner or language_model).base_model
