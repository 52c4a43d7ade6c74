"""A causal language model of code: fine-tuned on a corpus, it scores and completes prompts.

Shape legend: B batch, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from re import Pattern
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from difflm_core.device import Compute, autocast
from difflm_core.errors import ConfigError
from difflm_core.progress import SILENT, Progress
from difflm_core.seeds import numpy_generator, seed_of
from difflm_core.vae.pretrained import PretrainedSpec, load_language_model

_IGNORED = -100
# Share of the steps in which the learning rate rises.
WARMUP_SHARE = 0.05
# Texts that are scored at once.
SCORED_ROWS = 16
# An end is looked for in the last tokens that were written.
TAIL_TOKENS = 8


@dataclass(frozen=True)
class TuningOptions:
    """How a model is fine-tuned; the same amount of text, whatever the corpus.

    Attributes:
        max_tokens: Tokens read in training; a smaller corpus is read again.
        batch_rows: Documents in a step.
        longest: Longest document, in tokens; the rest of a longer one is left out.
        lr: Highest learning rate of AdamW; it falls linearly to zero.
    """

    max_tokens: int = 500_000
    batch_rows: int = 16
    longest: int = 512
    lr: float = 1e-4


@dataclass(frozen=True)
class WritingOptions:
    """How a model completes prompts.

    Attributes:
        num_samples: Completions of each prompt.
        temperature: 0 takes the likeliest token.
        top_p: Share of the probability that tokens are drawn from.
        max_new_tokens: Longest completion, in tokens.
        batch_rows: Completions written at once.
    """

    num_samples: int = 1
    temperature: float = 0.2
    top_p: float = 0.95
    max_new_tokens: int = 256
    batch_rows: int = 64


class CodeModel:
    """A pretrained causal language model, as it is loaded or fine-tuned."""

    def __init__(self, spec: PretrainedSpec, compute: Compute, *, seed: int) -> None:
        """Load the model.

        Args:
            spec: Which, and how it is tuned: `full` or `lora`.
            compute: Where, and in which precision.
            seed: Of adapters, of the order of documents, and of what is written.

        Raises:
            ConfigError: there is no such model, or it has no end token.
        """
        from transformers import AutoTokenizer

        torch.manual_seed(seed_of(seed, "weights"))
        self._model: Any = load_language_model(spec, compute, key="--model").to(compute.device)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(spec.model, revision=spec.revision)
        self._compute = compute
        self._seed = seed
        if self._tokenizer.eos_token_id is None:
            raise ConfigError(f"--model {spec.model}: it has no end token; choose another model.")
        self._end = int(self._tokenizer.eos_token_id)
        self._longest = getattr(self._model.config, "max_position_embeddings", None) or 2048

    def tune(
        self,
        texts: Sequence[str],
        options: TuningOptions,
        *,
        title: str = "Tuning",
        progress: Progress = SILENT,
    ) -> None:
        """Fine-tune on texts, in place.

        Args:
            texts: Documents, each read by itself, from its beginning to its end.
            options: For how long, and how.
            title: Of the progress bar.
            progress: Told about the steps, and the loss in nats per token.
        """
        documents = [self._document(text, options.longest) for text in texts]
        batch_rows = min(options.batch_rows, len(documents))
        tokens_per_step = batch_rows * sum(map(len, documents)) / len(documents)
        steps = max(1, round(options.max_tokens / tokens_per_step))
        trained = [p for p in self._model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=options.lr, weight_decay=0.0)
        warmup = max(1, round(WARMUP_SHARE * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (steps - step) / steps)
        )
        self._model.train()
        torch.manual_seed(seed_of(self._seed, "dropout"))
        with progress.track(title, total=steps, unit="steps") as bar:
            for batch in islice(self._batches(documents, batch_rows), steps):
                ids_BT, labels_BT = self._padded(batch, [0] * len(batch))
                loss = self._nll(ids_BT, labels_BT).sum() / (labels_BT != _IGNORED).sum()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                bar.advance(1, loss=loss.detach())
        self._model.eval()

    @torch.inference_mode()
    def bits_per_character(self, prompts: Sequence[str], texts: Sequence[str]) -> float:
        """Negative log2-likelihood of texts behind their prompts, divided by their characters."""
        self._model.eval()
        rows: list[tuple[list[int], list[int]]] = []
        for prompt, text in zip(prompts, texts, strict=True):
            before, blank = _cut(prompt)
            rows.append((self._start(before), self._ids(blank + text)))
        total = 0.0
        for begin in range(0, len(rows), SCORED_ROWS):
            part = rows[begin : begin + SCORED_ROWS]
            whole = [[*before, *ids][-self._longest :] for before, ids in part]
            hidden = [
                max(0, len(row) - len(ids)) for row, (_, ids) in zip(whole, part, strict=True)
            ]
            total += float(self._nll(*self._padded(whole, hidden)).sum())
        return total / math.log(2) / max(1, sum(map(len, texts)))

    def complete(
        self,
        prompts: Sequence[str],
        ends: Sequence[Pattern[str]],
        options: WritingOptions,
        *,
        progress: Progress = SILENT,
    ) -> list[list[str]]:
        """Completions of each prompt, `options.num_samples` of them.

        Args:
            prompts: What the model reads; of a longer one than it can read, the last part.
            ends: What ends a completion, for each prompt; searched for in what was written.
            options: How they are drawn.
            progress: Told how many are written.
        """
        self._model.eval()
        starts = [self._start(_cut(prompt)[0]) for prompt in prompts]
        asked = [index for index in range(len(prompts)) for _ in range(options.num_samples)]
        asked.sort(key=lambda index: len(starts[index]))
        found: list[list[str]] = [[] for _ in prompts]
        with progress.track("Writing solutions", total=len(asked), unit="solutions") as bar:
            for number, begin in enumerate(range(0, len(asked), options.batch_rows)):
                part = asked[begin : begin + options.batch_rows]
                torch.manual_seed(seed_of(self._seed, "complete", number))
                texts = self._write([starts[i] for i in part], [ends[i] for i in part], options)
                for index, text in zip(part, texts, strict=True):
                    found[index].append(text)
                bar.advance(len(part))
        return found

    @torch.inference_mode()
    def _write(
        self, starts: list[list[int]], ends: list[Pattern[str]], options: WritingOptions
    ) -> list[str]:
        from transformers import StoppingCriteriaList

        room = max(1, self._longest - options.max_new_tokens)
        starts = [ids[-room:] for ids in starts]
        width = max(map(len, starts))
        ids_BT = torch.tensor([[self._end] * (width - len(ids)) + ids for ids in starts])
        mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in starts])
        drawn: dict[str, Any] = {"do_sample": False}
        if options.temperature > 0:
            drawn = {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p}

        def ended(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            tails = self._tokenizer.batch_decode(ids[:, max(width, ids.shape[1] - TAIL_TOKENS) :])
            hits = [bool(end.search(tail)) for end, tail in zip(ends, tails, strict=True)]
            return torch.tensor(hits, device=ids.device)

        device = self._compute.device
        with autocast(device, self._compute.precision):
            written = self._model.generate(
                input_ids=ids_BT.to(device),
                attention_mask=mask_BT.to(device),
                max_new_tokens=options.max_new_tokens,
                pad_token_id=self._end,
                eos_token_id=self._end,
                top_k=0,
                stopping_criteria=StoppingCriteriaList([ended]),
                **drawn,
            )
        return self._tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)

    def _nll(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each label, 0 where there is none; flat, in nats."""
        device = self._compute.device
        with autocast(device, self._compute.precision):
            # Filled up at the end, behind all that is looked at: no mask is needed.
            logits = self._model(input_ids=ids_BT.to(device)).logits
        return functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(),
            labels_BT[:, 1:].flatten().to(device),
            ignore_index=_IGNORED,
            reduction="none",
        )

    def _padded(self, rows: Sequence[list[int]], hidden: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Token ids and labels, [B, T]; the first `hidden` tokens of a row are no labels."""
        width = max(map(len, rows))
        ids = [row + [self._end] * (width - len(row)) for row in rows]
        labels = [
            [_IGNORED] * count + row[count:] + [_IGNORED] * (width - len(row))
            for row, count in zip(rows, hidden, strict=True)
        ]
        return torch.tensor(ids), torch.tensor(labels)

    def _batches(self, documents: Sequence[list[int]], rows: int) -> Iterator[list[list[int]]]:
        """Shuffled batches of `rows` documents, without end; each pass in another order."""
        number = 0
        while True:
            order = numpy_generator(self._seed, "tuning", number).permutation(len(documents))
            for begin in range(0, len(order) - rows + 1, rows):
                yield [documents[i] for i in order[begin : begin + rows]]
            number += 1

    def _document(self, text: str, longest: int) -> list[int]:
        return [*self._start(text), self._end][: min(longest, self._longest)]

    def _start(self, text: str) -> list[int]:
        """Tokens of a text at its beginning: behind the model's start token, if it has one."""
        ids = list(self._tokenizer(text).input_ids)
        return ids[:-1] if ids and ids[-1] == self._end else ids

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)


def _cut(prompt: str) -> tuple[str, str]:
    """A prompt without the blanks at its end, and these.

    They and the indentation that follows are often one token, which a model that has read the first
    of them by itself would not expect: it has to write them.
    """
    before = prompt.rstrip()
    return before, prompt[len(before) :]
