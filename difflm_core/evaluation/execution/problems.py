"""Programming problems with tests: HumanEval, HumanEval+, MBPP and MBPP+.

Each is a JSON Lines file in the form in which its authors publish it (also .gz); which one it is
shows in its keys. A problem and a solution make a program (`program_of`) that passes or fails.

Sources: Chen et al. 2021 (HumanEval), Austin et al. 2021 (MBPP), Liu et al. 2023 (EvalPlus).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from difflm_core import storage
from difflm_core.errors import DataError

# Problems whose answer is right when it solves an equation, not when it equals the reference.
_ROOT_PROBLEMS = frozenset({"find_zero"})
# Problems whose answers are sets that the reference happens to give as lists.
_SET_PROBLEMS = frozenset(
    {
        "similar_elements",
        "find_char_long",
        "common_in_nested_lists",
        "extract_singly",
        "larg_nnum",
        "intersection_array",
        "find_dissimilar",
        "Diff",
    }
)
# Problems whose answers only matter as true or false.
_TRUTH_PROBLEMS = frozenset({"check_str", "text_match_three", "text_starta_endb"})
# A function that goes on from a prompt ends with the first line at the margin; a program where its
# tests, or another text, begin. What comes before a text is taken for a line's end.
_END_OF_FUNCTION = re.compile(r"\n(?=\S)|```")
_END_OF_PROGRAM = re.compile(r'\n(?="""|assert |print\(|if __name__)|```')


@dataclass(frozen=True)
class Problem:
    """A problem of a set.

    Attributes:
        task_id: Name in its set.
        prompt: What a language model is to complete.
        canonical_solution: A right completion.
        tests: Source text that fails unless what stands before it is right.
        completes: Whether a solution goes on from the prompt; else it stands alone.
    """

    task_id: str
    prompt: str
    canonical_solution: str
    tests: str
    completes: bool


def program_of(problem: Problem, solution: str) -> str:
    """The program that tests a solution."""
    before = problem.prompt if problem.completes else ""
    return f"{before}{solution}\n{problem.tests}\n"


def end_of_solution(problem: Problem) -> re.Pattern[str]:
    """What ends a solution in the text that a language model writes behind the prompt."""
    return _END_OF_FUNCTION if problem.completes else _END_OF_PROGRAM


def trim_solution(problem: Problem, text: str) -> str:
    """The solution at the beginning of what a language model wrote behind the prompt."""
    found = end_of_solution(problem).search("\n" + text)
    kept = text if found is None else text[: max(0, found.start() - 1)]
    return kept.rstrip() + "\n"


def read_problems(uri: str) -> list[Problem]:
    """Read a problem set.

    Raises:
        DataError: the file is absent, or is none of the known sets.
    """
    problems = [_read(record, place) for place, record in read_lines(uri, "a problem set")]
    if not problems:
        raise DataError(f"{uri}: found no problems; expected at least one line")
    return problems


def read_lines(uri: str, expected: str) -> Iterator[tuple[str, Any]]:
    """The records of a JSON Lines file, each with its place for messages; also compressed.

    Raises:
        DataError: the file is absent, or a line is not JSON.
    """
    try:
        with storage.open_file(uri) as file:
            data = file.read()
    except FileNotFoundError:
        raise DataError(f"{uri}: there is no such file; expected {expected} (.jsonl)") from None
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
        if line.strip():
            place = f"{uri}, line {number}"
            try:
                yield place, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{place}: not valid JSON ({error.msg})") from None


def _read(record: Any, place: str) -> Problem:
    if isinstance(record, Mapping):
        for keys, read in _FORMS:
            if keys <= record.keys():
                return read(record)
    found = ", ".join(sorted(record)) if isinstance(record, Mapping) else type(record).__name__
    raise DataError(
        f"{place}: found {found}; expected a problem of HumanEval (task_id, prompt, entry_point, "
        "canonical_solution, test), of MBPP (task_id, text, code, test_list), or of one of them "
        "with the inputs of EvalPlus (base_input, plus_input)"
    )


def _humaneval(record: Mapping[str, Any]) -> Problem:
    return Problem(
        task_id=str(record["task_id"]),
        prompt=record["prompt"],
        canonical_solution=record["canonical_solution"],
        tests=f"{record['test']}\ncheck({record['entry_point']})",
        completes=True,
    )


def _mbpp(record: Mapping[str, Any]) -> Problem:
    """MBPP as it is prompted by its authors: the text and the tests that it must pass."""
    tests = [str(test) for test in record["test_list"]]
    asserted = "\n".join(tests)
    prompt = f'"""\n{record["text"]}\n{asserted}\n"""\n'
    setup = record.get("test_setup_code") or ""
    return Problem(
        task_id=f"Mbpp/{record['task_id']}",
        prompt=prompt,
        canonical_solution=_unix(record["code"]),
        tests=_unix(f"{setup}\n{asserted}"),
        completes=False,
    )


def _plus(record: Mapping[str, Any]) -> Problem:
    """A problem with the inputs of EvalPlus: answers are compared with the reference's."""
    entry = record["entry_point"]
    completes = "def " in record["prompt"]
    reference = record["canonical_solution"]
    if completes:
        reference = record["prompt"] + reference
    inputs = [*_listed(record["base_input"]), *_listed(record["plus_input"])]
    asserted = record.get("assertion") or ""
    if "test" in record:  # HumanEval's own tests come first
        asserted = f"{record['test']}\ncheck({entry})"
    tests = _COMPARISON.format(
        asserted=asserted,
        entry=entry,
        reference=reference,
        inputs=json.dumps(json.dumps(inputs)),
        tolerance=float(record.get("atol") or 0),
        is_root=entry in _ROOT_PROBLEMS,
        is_set=entry in _SET_PROBLEMS,
        is_truth=entry in _TRUTH_PROBLEMS,
    )
    return Problem(
        task_id=str(record["task_id"]),
        prompt=record["prompt"],
        canonical_solution=record["canonical_solution"],
        tests=tests,
        completes=completes,
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


_FORMS: tuple[tuple[set[str], Callable[[Mapping[str, Any]], Problem]], ...] = (
    ({"task_id", "prompt", "entry_point", "canonical_solution", "base_input"}, _plus),
    ({"task_id", "prompt", "entry_point", "canonical_solution", "test"}, _humaneval),
    ({"task_id", "text", "code", "test_list"}, _mbpp),
)

# The reference runs beside the solution, on copies of the same inputs. Inputs that the reference
# itself refuses prove nothing, but some must be left.
_COMPARISON = """
import math
{asserted}

def _compare(candidate):
    import copy, json, math
    space = {{}}
    exec({reference!r}, space)
    reference = space[{entry!r}]

    def alike(a, b):
        if isinstance(a, float) or isinstance(b, float):
            try:
                close = math.isclose(a, b, rel_tol=1e-7, abs_tol=max({tolerance}, 1e-6))
                return close or (a != a and b != b)
            except (TypeError, OverflowError):
                return a == b
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(map(alike, a, b))
        return a == b

    def forms(inputs):
        # JSON has neither tuples nor complex numbers: the first form that the reference takes
        yield inputs
        yield [tuple(v) if i and isinstance(v, list) else v for i, v in enumerate(inputs)]
        yield [tuple(v) if isinstance(v, list) else v for v in inputs]
        yield [complex(v) if isinstance(v, str) else v for v in inputs]

    def answered(inputs):
        for form in forms(inputs):
            try:
                return form, reference(*copy.deepcopy(form))
            except Exception:
                pass
        return None

    tried = 0
    for inputs in json.loads({inputs}):
        try:
            answer = answered(inputs)
        except ValueError:
            answer = None
        if answer is None:
            continue
        inputs, expected = answer
        tried += 1
        found = candidate(*copy.deepcopy(inputs))
        if {is_root}:
            value = sum(c * found ** i for i, c in enumerate(inputs[0]))
            scale = sum(abs(c * found ** i) for i, c in enumerate(inputs[0]))
            assert abs(value) <= 1e-4 * max(1.0, scale), "no root"
        elif {is_truth}:
            assert bool(found) == bool(expected), "another answer than the reference"
        elif {is_set}:
            assert set(found) == set(expected), "another answer than the reference"
        else:
            assert alike(found, expected), "another answer than the reference"
    assert tried, "the reference accepts no input"

_compare({entry})
"""
