"""A judge behind an OpenAI-compatible endpoint.

Answers are kept by the hash of what was asked, so a stopped run goes on where it stopped, and a
repeated one costs nothing. A question that cannot be answered is counted with its reason, never
guessed.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from difflm_core import storage
from difflm_core.errors import ConfigError, StageError
from difflm_core.judge.exchange import (
    checked_key,
    error_code,
    require_address,
    seconds_to_wait,
)
from difflm_core.judge.questions import (
    PROMPT_VERSION,
    Choice,
    MalformedAnswerError,
    Question,
    Usage,
    read_answer,
)

MAX_ANSWER_BYTES = 1 << 20
MAX_WAIT_SECONDS = 60.0
# Questions given up one after the other, after which the service counts as gone.
MAX_GIVEN_UP = 8
_RETRIED = frozenset({408, 409, 425, 429})


@dataclass(frozen=True)
class EndpointOptions:
    """Where a judge is, and how patiently it is asked.

    Attributes:
        base_url: Of the API, such as https://api.example.com/v1.
        model: Name of the model.
        in_flight: Questions at a time.
        timeout_seconds: For a whole answer.
        max_tries: Requests for one answer, while the service is busy or broken.
        max_asks: Times that a malformed answer is asked for.
        max_requests: Requests in all; 0: any number.
        max_tokens: Tokens in all, as the service counts them; 0: any number.
        cache: Folder or URI of the answers; None: they are not kept.
    """

    base_url: str
    model: str
    in_flight: int = 4
    timeout_seconds: float = 60.0
    max_tries: int = 6
    max_asks: int = 3
    max_requests: int = 0
    max_tokens: int = 0
    cache: str | None = None


class _UnansweredError(Exception):
    """A question that is given up; carries the reason."""


class EndpointJudge:
    """Asks an OpenAI-compatible endpoint.

    Attributes:
        name: Of the model, for reports.
        usage: What it has cost so far.
    """

    def __init__(
        self,
        options: EndpointOptions,
        api_key: str | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare to ask.

        Args:
            options: Where, and how patiently.
            api_key: Sent with every request, and shown nowhere.
            sleep: Waits between tries.
            transport: How requests are sent, in tests.

        Raises:
            ConfigError: the address is none, or would send the key unprotected.
        """
        is_here = require_address(options.base_url)
        self.options = options
        self.name = options.model
        self.usage = Usage()
        self._key = checked_key(api_key)
        self._sleep = sleep
        self._lock = threading.Lock()
        self._formats_answers = True
        self._has_answered = False
        self._given_up = 0
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(
            base_url=options.base_url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(
                options.timeout_seconds, connect=min(10, options.timeout_seconds)
            ),
            transport=transport,
            trust_env=not is_here,  # no proxy between this machine and itself
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(
        self, questions: Sequence[Question], on_answer: Callable[[], None] = lambda: None
    ) -> Iterator[int | Choice | None]:
        """Ask questions, a few at a time; yields an answer for each, in order, or None.

        Raises:
            ConfigError: the service refuses the key, the model or the address.
            StageError: it has stopped answering.
        """
        with ThreadPoolExecutor(self.options.in_flight, thread_name_prefix="judge") as pool:
            futures = [pool.submit(self._answer, question) for question in questions]
            try:
                for future in futures:
                    yield future.result()
                    on_answer()
            finally:
                for future in futures:
                    future.cancel()

    def _answer(self, question: Question) -> int | Choice | None:
        cached = self._cached(question)
        if cached is not None:
            return cached
        try:
            return self._ask_until_well_formed(question)
        except _UnansweredError as reason:
            with self._lock:
                self.usage.unanswered[str(reason)] += 1
            return None

    def _ask_until_well_formed(self, question: Question) -> int | Choice:
        messages = question.messages
        problem = ""
        cost: Counter[str] = Counter()
        for _ in range(self.options.max_asks):
            text, usage = self._complete(messages, question)
            cost.update(usage)
            try:
                value = read_answer(text, question)
            except MalformedAnswerError as error:
                problem = str(error)
                messages = [
                    *question.messages,
                    {"role": "assistant", "content": text[:2000]},
                    {
                        "role": "user",
                        "content": f"This is not what was asked for: {problem}. Answer again, with "
                        "one JSON object and nothing else.",
                    },
                ]
                continue
            self._keep(question, value, cost)
            return value
        raise _UnansweredError("malformed answer")

    def _complete(
        self, messages: list[dict[str, str]], question: Question
    ) -> tuple[str, dict[str, int]]:
        """One answer of the service, and what it cost."""
        for number in range(self.options.max_tries):
            formats = self._formats_answers
            self._take_request()
            try:
                status, headers, body = self._post(messages, question, formats)
            except httpx.HTTPError:
                self._wait(number, None)
                continue
            if status == 200:
                found = self._read(body)
                if found is not None:
                    self._has_answered, self._given_up = True, 0
                    return found
                self._wait(number, None)
            elif status in (400, 413, 422) and self._has_answered:
                # It takes other requests, so it is about this one: too long, or filtered.
                raise _UnansweredError(f"refused with status {status}")
            elif status == 400 and formats:
                self._formats_answers = False  # it does not know response_format
            elif status in _RETRIED or status >= 500:
                self._wait(number, seconds_to_wait(headers))
            else:
                raise ConfigError(self._refusal(status, body))
        self._give_up()
        raise _UnansweredError(f"no answer after {self.options.max_tries} tries")

    def _give_up(self) -> None:
        """Count a question without an answer; the service may be gone for all of them."""
        with self._lock:
            self._given_up += 1
            count = self._given_up
        if count >= MAX_GIVEN_UP:
            raise StageError(
                f"The judge at {self.options.base_url} has not answered {count} questions in a "
                f"row, each asked {self.options.max_tries} times. Check that it runs, and repeat "
                "the command: answers in the cache are not asked for again."
            )

    def _post(
        self, messages: list[dict[str, str]], question: Question, formats: bool
    ) -> tuple[int, httpx.Headers, bytes]:
        content: dict[str, Any] = {
            "model": self.options.model,
            "messages": messages,
            "temperature": 0,
            "seed": 0,
        }
        if formats:
            schema = {"name": "answer", "strict": True, "schema": question.json_schema}
            content["response_format"] = {"type": "json_schema", "json_schema": schema}
        deadline = time.monotonic() + self.options.timeout_seconds
        body = bytearray()
        with self._client.stream("POST", "chat/completions", json=content) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer comes too slowly")
                if len(body) > MAX_ANSWER_BYTES:
                    raise httpx.ReadError("the answer is too long")
            return response.status_code, response.headers, bytes(body)

    def _read(self, body: bytes) -> tuple[str, dict[str, int]] | None:
        """Text and cost of an answer; None: it is none."""
        try:
            data = json.loads(body)
            text = data["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return None
        found = data.get("usage") if isinstance(data.get("usage"), dict) else {}
        usage = {
            name: int(found[name]) if isinstance(found.get(name), int) else 0
            for name in ("prompt_tokens", "completion_tokens")
        }
        with self._lock:
            self.usage.prompt_tokens += usage["prompt_tokens"]
            self.usage.answer_tokens += usage["completion_tokens"]
        return (text if isinstance(text, str) else ""), usage

    def _take_request(self) -> None:
        """Count a request, if there may be another one."""
        options, usage = self.options, self.usage
        with self._lock:
            if options.max_requests and usage.num_requests >= options.max_requests:
                raise _UnansweredError("the limit of requests is reached")
            spent = usage.prompt_tokens + usage.answer_tokens
            if options.max_tokens and spent >= options.max_tokens:
                raise _UnansweredError("the limit of tokens is reached")
            usage.num_requests += 1

    def _wait(self, number: int, asked: float | None) -> None:
        """Wait as long as the service asks for, or twice as long at each try, with jitter."""
        if number + 1 >= self.options.max_tries:
            return
        jittered = random.uniform(0.5, 1.0) * 2.0**number
        self._sleep(min(MAX_WAIT_SECONDS, max(asked or 0.0, jittered)))

    def _refusal(self, status: int, body: bytes) -> str:
        hint = {
            401: "check the key that the environment variable holds",
            403: "check what the key may do",
            404: "check the address (does it end in /v1?) and the name of the model",
        }.get(status, "check the address, the key and the name of the model")
        code = error_code(body)
        named = f" ({code})" if code and not (self._key and self._key in code) else ""
        return (
            f"The judge at {self.options.base_url} refuses model {self.options.model!r} with "
            f"status {status}{named}; {hint}."
        )

    # Answers that are kept -------------------------------------------------------------------

    def _place(self, question: Question) -> str | None:
        if self.options.cache is None:
            return None
        asked = [
            PROMPT_VERSION,
            self.options.base_url.rstrip("/"),
            self.options.model,
            question.messages,
        ]
        digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        return storage.join(self.options.cache, digest[:2], f"{digest}.json")

    def _cached(self, question: Question) -> int | Choice | None:
        place = self._place(question)
        if place is None or not storage.exists(place):
            return None
        try:
            kept = json.loads(storage.read_text(place))
            value = read_answer(json.dumps({question.key: kept["value"]}), question)
        except (ValueError, KeyError, TypeError):
            return None
        with self._lock:
            self.usage.num_cached += 1
            self.usage.prompt_tokens += int(kept.get("prompt_tokens", 0))
            self.usage.answer_tokens += int(kept.get("completion_tokens", 0))
        return value

    def _keep(self, question: Question, value: int | Choice, usage: Counter[str]) -> None:
        place = self._place(question)
        if place is not None:
            storage.write_text(place, json.dumps({"value": value, **usage}))
