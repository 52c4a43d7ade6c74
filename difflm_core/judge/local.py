"""A judge that runs here: a Hugging Face language model that weighs the possible answers.

It writes nothing. Each answer's log-probability behind the question is computed, and the likeliest
wins: so a small model, too, gives a well-formed verdict.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from difflm_core.errors import ConfigError
from difflm_core.judge.questions import CHOICES, Choice, Question, Usage


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
            max_tokens: Longest question with its answer; a longer one stays unanswered, since a
                judge that sees half of two sets cannot compare them.

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
            # Weights in safetensors alone: another file could run code when it is read.
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The judge {model!r} cannot be loaded ({str(error).splitlines()[0]}). Expected "
                "the folder of a Hugging Face causal language model, or a hub id."
            ) from None
        self._model: Any = loaded.to(self._device).eval()
        longest = getattr(loaded.config, "max_position_embeddings", None) or max_tokens
        self._max_tokens = min(max_tokens, longest)

    def close(self) -> None:
        """Nothing to close."""

    def ask(
        self, questions: Sequence[Question], on_answer: Callable[[], None] = lambda: None
    ) -> Iterator[int | Choice | None]:
        """Ask questions; yields an answer for each, in order; None for one that is too long."""
        for question in questions:
            scores = self.log_probabilities(question)
            if scores is None:
                self.usage.unanswered["longer than the judge can read"] += 1
                yield None
            else:
                best = max(range(len(scores)), key=scores.__getitem__)
                yield int(question.answers[best]) if question.key == "score" else CHOICES[best]
            on_answer()

    def log_probabilities(self, question: Question) -> list[float] | None:
        """Log-probability of each answer behind the question; None if that is too long.

        An answer is the whole JSON object, up to its closing brace: so the probabilities of 1 and
        10 do not overlap, and none is favoured for its number of tokens.
        """
        import torch

        prompt = self._prompt(question)
        answers = [self._spelled(question, answer) for answer in question.answers]
        if len(prompt) + max(map(len, answers)) > self._max_tokens:
            return None
        found: list[float] = []
        with torch.inference_mode():
            # The question is read once; each answer goes on from a copy of what was read.
            read = self._model(input_ids=self._tensor(prompt), use_cache=True, logits_to_keep=1)
            for answer in answers:
                cache = copy.deepcopy(read.past_key_values)
                written = self._tensor(answer)
                logits = read.logits
                if len(answer) > 1:
                    more = self._model(
                        input_ids=written[:, :-1], past_key_values=cache, use_cache=True
                    )
                    logits = torch.cat([logits, more.logits], dim=1)
                chosen = torch.log_softmax(logits[0].float(), dim=-1).gather(1, written[0, :, None])
                found.append(float(chosen.sum()))
        self.usage.prompt_tokens += len(prompt) + sum(map(len, answers))
        return found

    def _spelled(self, question: Question, answer: str) -> list[int]:
        value = answer if question.key == "score" else f'"{answer}"'
        spelled = f'{{"{question.key}": {value}}}'
        return list(self._tokenizer(spelled, add_special_tokens=False).input_ids)

    def _tensor(self, ids: Sequence[int]) -> Any:
        import torch

        return torch.tensor([list(ids)], device=self._device)

    def _prompt(self, question: Question) -> list[int]:
        both = f"{question.system}\n\n{question.user}"
        if not self._tokenizer.chat_template:
            return list(self._tokenizer(f"{both}\n\n").input_ids)
        from jinja2 import TemplateError

        try:
            return self._chat(question.messages)
        except TemplateError:  # a chat without the role of the system
            return self._chat([{"role": "user", "content": both}])

    def _chat(self, messages: list[dict[str, str]]) -> list[int]:
        ids = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        return list(ids)
