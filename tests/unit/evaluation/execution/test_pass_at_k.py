"""pass@k, in closed form and by counting."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difflm_core.evaluation.execution.pass_at_k import (
    Solution,
    check_solutions,
    pass_at_k,
)
from difflm_core.evaluation.execution.problems import Problem
from tests.confined import needs_sandbox

DOUBLE = Problem("double", "def double(x):\n", "    return 2 * x\n", "assert double(3) == 6", True)
THREE = Problem("three", "", "def three():\n    return 3\n", "assert three() == 3", False)


@pytest.mark.parametrize(
    ("num_solutions", "num_right", "k", "expected"),
    [(1, 0, 1, 0.0), (1, 1, 1, 1.0), (10, 3, 1, 0.3), (4, 2, 2, 5 / 6), (5, 1, 5, 1.0)],
)
def test_known_values(num_solutions, num_right, k, expected):
    assert pass_at_k(num_solutions, num_right, k) == pytest.approx(expected)


@given(st.data())
def test_it_is_the_share_of_choices_with_a_right_one(data):
    n = data.draw(st.integers(1, 9))
    right = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    choices = list(combinations(range(n), k))
    share = sum(any(index < right for index in choice) for choice in choices) / len(choices)
    assert pass_at_k(n, right, k) == pytest.approx(share)


def test_large_numbers_stay_exact():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)
    assert pass_at_k(10_000, 5_000, 1) == pytest.approx(0.5)


@pytest.mark.parametrize("arguments", [(1, 2, 1), (1, 0, 2), (3, 1, 0), (2, -1, 1)])
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match="expected 0 <= right <= solutions"):
        pass_at_k(*arguments)


@needs_sandbox
def test_solutions_are_run():
    solutions = [
        Solution("double", "    return x + x\n"),
        Solution("double", "    return x\n"),
        Solution("three", "def three(): return 4"),
        Solution("three", "three = "),
        Solution("another problem", ""),
    ]
    seen = []
    result = check_solutions(
        [DOUBLE, THREE],
        solutions,
        ks=(1, 2, 5),
        on_verdict=lambda solution, verdict: seen.append((solution.task_id, verdict.kind)),
    )
    assert [(s.k, s.value) for s in result.scores] == [(1, 0.25), (2, 0.5)]
    assert (result.num_problems, result.num_solutions) == (2, 4)
    assert dict(result.outcomes) == {"passed": 1, "failed": 3}
    assert result.failed == ("three",)
    assert seen == [
        ("double", ""),
        ("double", "AssertionError"),
        ("three", "AssertionError"),
        ("three", "SyntaxError"),
    ]


@needs_sandbox
def test_the_interval_holds_the_value():
    problems = [Problem(str(i), "", "", "assert right", False) for i in range(6)]
    solutions = [Solution(str(i), f"right = {i < 3}") for i in range(6)]
    (score,) = check_solutions(problems, solutions).scores
    assert score.value == 0.5
    assert 0 <= score.low < 0.5 < score.high <= 1
