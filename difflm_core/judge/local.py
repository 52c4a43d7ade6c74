"""A judge that runs here: a Hugging Face language model that weighs the possible answers.

It writes nothing. Each answer's log-probability behind the question is computed, and the likeliest
wins: so a small model, too, gives a well-formed verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from difflm_core.errors import ConfigError
from difflm_core.judge.endpoint import Usage
from difflm_core.judge.questions import CHOICES, Choice, Question


class LocalJudge:
    """Weighs answers with a causal language model.

    Attributes:
        name: Path or id of the model, for reports.
        usage: What it has read so far.
    """

    def __init__(self, model: str, *, device: str = "auto", max_tokens: int = 4096) -> None:
        """Load the model.

        Args:
            model: Path of a model's folder, or its id on the hub.
            device: auto, cpu, cuda or cuda:N.
            max_tokens: Longest question; a longer one keeps its beginning and its end.

        Raises:
            ConfigError: there is no such model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from difflm_core.device import choose_device

        self.name = model
        self.usage = Usage()
        self._device = choose_device(device)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
            loaded: Any = AutoModelForCausalLM.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The judge {model!r} cannot be loaded ({str(error).splitlines()[0]}). Expected "
                "the folder of a Hugging Face causal language model, or a hub id."
            ) from None
        self._model: Any = loaded.to(self._device).eval()
        longest = getattr(loaded.config, "max_position_embeddings", None) or max_tokens
        self._max_tokens = min(max_tokens, longest - 16)

    def close(self) -> None:
        """Nothing to close."""

    def ask(
        self, questions: Sequence[Question], on_answer: Callable[[], None] = lambda: None
    ) -> Iterator[int | Choice | None]:
        """Ask questions; yields an answer for each, in order."""
        for question in questions:
            scores = self._log_probabilities(question)
            best = max(range(len(scores)), key=scores.__getitem__)
            yield int(question.answers[best]) if question.key == "score" else CHOICES[best]
            on_answer()

    def _log_probabilities(self, question: Question) -> list[float]:
        """Mean log-probability of the tokens of each answer."""
        import torch

        prompt = self._prompt(question)
        found: list[float] = []
        for answer in question.answers:
            value = answer if question.key == "score" else f'"{answer}"'
            spelled = f'{{"{question.key}": {value}}}'
            ids = self._tokenizer(spelled, add_special_tokens=False).input_ids
            tokens = torch.tensor([[*prompt, *ids]], device=self._device)
            with torch.inference_mode():
                logits = self._model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].float()
            written = tokens[0, -len(ids) :]
            chosen = torch.log_softmax(logits, dim=-1).gather(1, written[:, None])
            found.append(float(chosen.mean()))
            self.usage.prompt_tokens += tokens.shape[1]
        return found

    def _prompt(self, question: Question) -> list[int]:
        if self._tokenizer.chat_template:
            ids = self._tokenizer.apply_chat_template(
                question.messages, add_generation_prompt=True, return_dict=False
            )
        else:
            ids = self._tokenizer(f"{question.system}\n\n{question.user}\n\n").input_ids
        if len(ids) > self._max_tokens:
            half = self._max_tokens // 2
            ids = [*ids[:half], *ids[-half:]]
        return list(ids)
