"""The protocol: which questions are asked, and what the answers say together."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from difflm_core.errors import DataError
from difflm_core.judge.questions import (
    PROMPT_VERSION,
    Choice,
    Question,
    Usage,
    preference_question,
    score_question,
)

NUM_RESAMPLES = 2000
Floats = NDArray[np.float64]


class Judge(Protocol):
    """Whoever answers questions."""

    name: str
    usage: Usage

    def ask(
        self, questions: Sequence[Question], on_answer: Callable[[], None] = ...
    ) -> Iterator[int | Choice | None]:
        """Answers in order; None where there is none."""
        ...


@dataclass(frozen=True)
class JudgeOptions:
    """How much is asked.

    Attributes:
        max_scored: Tools of each side that are scored.
        max_groups: Pairs of sets that are compared.
        tools_per_set: Tools of a set.
        control: Whether real tools are also compared with other real ones.
        seed: Of the samples.
    """

    max_scored: int = 100
    max_groups: int = 100
    tools_per_set: int = 5
    control: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """Quality scores of tools, from 1 to 10.

    Attributes:
        mean: Their mean.
        low: Lower end of its 95 % interval (bootstrap).
        high: Upper end.
        histogram: Number of tools with each score, from 1 on.
        num_tools: Tools that were scored.
    """

    mean: float
    low: float
    high: float
    histogram: tuple[int, ...]
    num_tools: int


@dataclass(frozen=True, slots=True)
class Preferences:
    """Sets of tools compared in pairs, each pair in both orders.

    A pair is won if both answers prefer it, whatever stands first; answers that contradict each
    other, or say "equal", make a tie.

    Attributes:
        wins: Pairs in which the first side is better.
        ties: Pairs in which neither is.
        losses: Pairs in which the second side is.
        win_rate: Share of pairs that are won.
        win_low: Lower end of its 95 % interval (Wilson 1927).
        win_high: Upper end.
        net: Wins less losses, relative to the pairs.
        net_low: Lower end of its 95 % interval (bootstrap over pairs).
        net_high: Upper end.
        contradictions: Share of pairs whose two answers contradict each other.
        first_place: Share of decided answers that prefer what stands first; 0.5 is impartial.
        num_pairs: Pairs with both answers.
    """

    wins: int
    ties: int
    losses: int
    win_rate: float
    win_low: float
    win_high: float
    net: float
    net_low: float
    net_high: float
    contradictions: float
    first_place: float
    num_pairs: int


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """What a judge says of synthetic tools.

    Attributes:
        judge: Name of the model.
        prompt_version: Version of the questions.
        synthetic: Scores of synthetic tools.
        real: Scores of real tools.
        preference: Synthetic sets against real ones.
        control: Real sets against other real ones, the noise of the comparison; None: not asked.
        num_requests: Requests that were sent.
        num_cached: Answers that were there already.
        num_tokens: Tokens in all.
        unanswered: Questions without an answer, by reason.
    """

    judge: str
    prompt_version: int
    synthetic: Scores
    real: Scores
    preference: Preferences
    control: Preferences | None
    num_requests: int
    num_cached: int
    num_tokens: int
    unanswered: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a number that rests on nothing is null."""
        return _without_nan(dataclasses.asdict(self))


def judge_tools(
    real: Sequence[Any],
    synthetic: Sequence[Any],
    judge: Judge,
    options: JudgeOptions | None = None,
    *,
    category_of: Callable[[Any], str] = lambda tool: "",
    on_answer: Callable[[], None] = lambda: None,
) -> JudgeResult:
    """Ask a judge about real and synthetic tools.

    Args:
        real: Real tool descriptions, such as the test documents.
        synthetic: Generated ones.
        judge: Whom to ask.
        options: How much.
        category_of: Category of a tool; sets of the same category are compared.
        on_answer: Called after each answer.

    Raises:
        DataError: a side has no tools, or no category has tools of both sides.
        ConfigError: the judge cannot be asked.
    """
    options = options or JudgeOptions()
    for name, side in (("real", real), ("synthetic", synthetic)):
        if not side:
            raise DataError(f"There are no {name} tools to judge; expected at least one.")
    generator = np.random.default_rng(options.seed)
    made_tools = _some(synthetic, options.max_scored, generator)
    real_tools = _some(real, options.max_scored, generator)
    pairs = _pairs(_by_category(synthetic, category_of), _by_category(real, category_of), options)
    if not pairs:
        raise DataError(
            "No category has tools of both sides, so no sets can be compared; name another field "
            "with --category, or none."
        )
    halves = _halves(real, generator) if options.control else None
    control_pairs = (
        _pairs(_by_category(halves[0], category_of), _by_category(halves[1], category_of), options)
        if halves
        else []
    )
    made_scores = list(judge.ask([score_question(tool) for tool in made_tools], on_answer))
    real_scores = list(judge.ask([score_question(tool) for tool in real_tools], on_answer))
    preference = _compare(pairs, judge, options.seed, on_answer)
    control = _compare(control_pairs, judge, options.seed, on_answer) if control_pairs else None
    usage = judge.usage
    return JudgeResult(
        judge=judge.name,
        prompt_version=PROMPT_VERSION,
        synthetic=summarize_scores(made_scores, options.seed),
        real=summarize_scores(real_scores, options.seed),
        preference=preference,
        control=control,
        num_requests=usage.num_requests,
        num_cached=usage.num_cached,
        num_tokens=usage.prompt_tokens + usage.answer_tokens,
        unanswered=dict(usage.unanswered),
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _without_nan(item) for key, item in items}
    return None if isinstance(value, float) and math.isnan(value) else value


def num_questions(real: int, synthetic: int, options: JudgeOptions) -> int:
    """About how many questions will be asked."""
    scored = min(real, options.max_scored) + min(synthetic, options.max_scored)
    return scored + 2 * options.max_groups * (2 if options.control else 1)


def _some(tools: Sequence[Any], count: int, generator: np.random.Generator) -> list[Any]:
    return [tools[index] for index in generator.permutation(len(tools))[:count]]


def _halves(
    tools: Sequence[Any], generator: np.random.Generator
) -> tuple[list[Any], list[Any]] | None:
    if len(tools) < 2:
        return None
    order = generator.permutation(len(tools))
    half = len(tools) // 2
    return [tools[i] for i in order[:half]], [tools[i] for i in order[half:]]


def _by_category(tools: Sequence[Any], category_of: Callable[[Any], str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for tool in tools:
        found.setdefault(category_of(tool), []).append(tool)
    return found


def _pairs(
    first: Mapping[str, Sequence[Any]], second: Mapping[str, Sequence[Any]], options: JudgeOptions
) -> list[tuple[list[Any], list[Any]]]:
    """Sets of equally many tools of each side, category by category, until there are enough."""
    generator = np.random.default_rng(options.seed)
    decks = {
        name: (
            _some(first[name], len(first[name]), generator),
            _some(second[name], len(second[name]), generator),
        )
        for name in sorted(first.keys() & second.keys())
    }
    pairs: list[tuple[list[Any], list[Any]]] = []
    while decks and len(pairs) < options.max_groups:
        for name in list(decks):
            ours, theirs = decks[name]
            size = min(options.tools_per_set, len(ours), len(theirs))
            if not size or len(pairs) >= options.max_groups:
                del decks[name]
                continue
            pairs.append((ours[:size], theirs[:size]))
            decks[name] = (ours[size:], theirs[size:])
    return pairs


def _compare(
    pairs: Sequence[tuple[list[Any], list[Any]]],
    judge: Judge,
    seed: int,
    on_answer: Callable[[], None],
) -> Preferences:
    questions = [
        preference_question(*order) for pair in pairs for order in (pair, (pair[1], pair[0]))
    ]
    answers = list(judge.ask(questions, on_answer))
    return summarize_preferences(list(zip(answers[::2], answers[1::2], strict=True)), seed)


def summarize_scores(answers: Sequence[Any], seed: int = 0) -> Scores:
    """Scores of the tools that have one."""
    values: Floats = np.array([a for a in answers if isinstance(a, int)], dtype=float)
    if not len(values):
        return Scores(float("nan"), float("nan"), float("nan"), (0,) * 10, 0)
    low, high = _bootstrap(values, seed)
    histogram = tuple(int((values == score).sum()) for score in range(1, 11))
    return Scores(float(values.mean()), low, high, histogram, len(values))


def summarize_preferences(answers: Sequence[tuple[Any, Any]], seed: int = 0) -> Preferences:
    """Wins, ties and losses of the first side.

    Args:
        answers: Of each pair, the answer with the first side in front, and with it behind.
        seed: Of the bootstrap.
    """
    known = [pair for pair in answers if None not in pair]
    outcomes: Floats = np.array([_outcome(*pair) for pair in known], dtype=float)
    counts = Counter(outcomes.tolist())
    decided = [answer for pair in known for answer in pair if answer != "equal"]
    nan = float("nan")
    if not known:
        return Preferences(0, 0, 0, nan, nan, nan, nan, nan, nan, nan, nan, 0)
    wins = counts[1.0]
    low, high = wilson(wins, len(known))
    net_low, net_high = _bootstrap(outcomes, seed)
    if len(counts) == 1:
        # Outcomes that are all alike resample to themselves, as if nothing were uncertain. What was
        # never seen may still happen as often as Wilson's interval allows; from win to loss is 2.
        net, unseen = float(outcomes[0]), wilson(0, len(known))[1]
        net_low, net_high = net - unseen * (1 + net), net + unseen * (1 - net)
    return Preferences(
        wins=wins,
        ties=counts[0.0],
        losses=counts[-1.0],
        win_rate=wins / len(known),
        win_low=low,
        win_high=high,
        net=float(outcomes.mean()),
        net_low=net_low,
        net_high=net_high,
        contradictions=sum(a == b != "equal" for a, b in known) / len(known),
        first_place=decided.count("A") / len(decided) if decided else 0.5,
        num_pairs=len(known),
    )


def _outcome(in_front: Choice, behind: Choice) -> int:
    """1 if both answers prefer the first side, -1 if both prefer the second, else 0."""
    if (in_front, behind) == ("A", "B"):
        return 1
    return -1 if (in_front, behind) == ("B", "A") else 0


def wilson(successes: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), by default of 95 %."""
    share = successes / count
    scale = 1 + z * z / count
    center = (share + z * z / (2 * count)) / scale
    half = z * ((share * (1 - share) + z * z / (4 * count)) / count) ** 0.5 / scale
    return max(0.0, center - half), min(1.0, center + half)


def _bootstrap(values: Floats, seed: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    picked = generator.integers(0, len(values), (NUM_RESAMPLES, len(values)))
    low, high = np.quantile(values[picked].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
