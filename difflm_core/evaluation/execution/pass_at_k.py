"""pass@k: the chance that at least one of k solutions is right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from difflm_core.errors import DataError
from difflm_core.evaluation.execution.problems import Problem, program_of, read_lines
from difflm_core.sandbox import Limits, Verdict, run_programs

NUM_RESAMPLES = 1000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """A solution of a problem: what goes on from its prompt, or stands alone."""

    task_id: str
    text: str


@dataclass(frozen=True, slots=True)
class PassAtK:
    """pass@k over a problem set.

    Attributes:
        k: Solutions of which one must be right.
        value: Mean over the problems.
        low: Lower end of its 95 % interval (bootstrap over problems).
        high: Upper end.
    """

    k: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ExecutionResult:
    """What running solutions has shown.

    Attributes:
        scores: pass@k, for each k that enough solutions allow.
        num_problems: Problems that had solutions.
        num_solutions: Solutions that were run.
        outcomes: Number of each outcome.
        failed: Problems without a right solution.
    """

    scores: tuple[PassAtK, ...]
    num_problems: int
    num_solutions: int
    outcomes: Mapping[str, int]
    failed: tuple[str, ...]


def pass_at_k(num_solutions: int, num_right: int, k: int) -> float:
    """Unbiased estimate of pass@k from `num_solutions` solutions, of which `num_right` are right.

    1 - C(n - c, k) / C(n, k), as a product (Chen et al. 2021, section 2.1).

    Raises:
        ValueError: there are fewer than k solutions, or more right ones than solutions.
    """
    if not 0 <= num_right <= num_solutions or not 1 <= k <= num_solutions:
        raise ValueError(
            f"expected 0 <= right <= solutions and 1 <= k <= solutions, found {num_right} right of "
            f"{num_solutions}, and k = {k}"
        )
    wrong = num_solutions - num_right
    if wrong < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(wrong + 1, num_solutions + 1)))


def check_solutions(
    problems: Sequence[Problem],
    solutions: Iterable[Solution],
    *,
    ks: Sequence[int] = (1,),
    limits: Limits | None = None,
    num_workers: int | None = None,
    on_verdict: Callable[[Solution, Verdict], None] | None = None,
) -> ExecutionResult:
    """Run solutions in the sandbox.

    Args:
        problems: What they are to solve; those without a solution do not count.
        solutions: Of the problems, any number of each.
        ks: For which k; problems with fewer solutions make that k impossible.
        limits: What each program may use.
        num_workers: Programs at a time.
        on_verdict: Called with each solution and its verdict, in order.

    Raises:
        StageError: programs cannot be confined on this machine.
    """
    by_id = {problem.task_id: problem for problem in problems}
    asked = [solution for solution in solutions if solution.task_id in by_id]
    right: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    outcomes: defaultdict[str, int] = defaultdict(int)
    programs = (program_of(by_id[solution.task_id], solution.text) for solution in asked)
    verdicts = run_programs(programs, limits or Limits(), num_workers=num_workers)
    for solution, verdict in zip(asked, verdicts, strict=True):
        tried[solution.task_id] += 1
        right[solution.task_id] += verdict.passed
        outcomes[verdict.outcome] += 1
        if on_verdict is not None:
            on_verdict(solution, verdict)
    scores = [_score(tried, right, k) for k in ks if tried and min(tried.values()) >= k]
    return ExecutionResult(
        scores=tuple(scores),
        num_problems=len(tried),
        num_solutions=len(asked),
        outcomes=dict(outcomes),
        failed=tuple(task for task in tried if not right[task]),
    )


def _score(tried: Counter[str], right: Counter[str], k: int) -> PassAtK:
    values: Floats = np.array([pass_at_k(tried[task], right[task], k) for task in tried])
    generator = np.random.default_rng(0)
    picked = generator.integers(0, len(values), (NUM_RESAMPLES, len(values)))
    low, high = np.quantile(values[picked].mean(axis=1), [0.025, 0.975])
    return PassAtK(k, float(values.mean()), float(low), float(high))


def read_solutions(uri: str) -> Iterator[Solution]:
    """Read solutions from JSON Lines of `task_id` and `completion` (or `solution`).

    Raises:
        DataError: the file is absent, or a line is no solution.
    """
    for place, record in read_lines(uri, "solutions"):
        is_object = isinstance(record, dict)
        code = record.get("completion", record.get("solution")) if is_object else None
        if not isinstance(code, str) or "task_id" not in record:
            raise DataError(
                f"{place}: expected an object with the keys task_id and completion (or solution)"
            )
        yield Solution(str(record["task_id"]), code)


def canonical_solutions(problems: Iterable[Problem]) -> Iterator[Solution]:
    """The right solutions that come with the problems."""
    for problem in problems:
        yield Solution(problem.task_id, problem.canonical_solution)


def empty_solutions(problems: Iterable[Problem]) -> Iterator[Solution]:
    """Solutions that do nothing."""
    for problem in problems:
        yield Solution(problem.task_id, "    pass\n" if problem.completes else "")
