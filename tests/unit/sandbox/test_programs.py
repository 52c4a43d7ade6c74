"""Running ordinary programs."""

import pytest

from difflm_core.errors import StageError
from difflm_core.sandbox import Limits, confinement, run_program, run_programs
from tests.confined import needs_sandbox


@needs_sandbox
def test_a_program_that_ends_has_passed():
    verdict = run_program("print('hello')\nassert 1 + 1 == 2")
    assert (verdict.outcome, verdict.output, verdict.passed) == ("passed", "hello\n", True)
    assert 0 < verdict.seconds < 10


@needs_sandbox
def test_an_error_is_told():
    verdict = run_program("print('before')\nassert 1 == 2, 'they differ'")
    assert (verdict.outcome, verdict.kind) == ("failed", "AssertionError")
    assert (verdict.message, verdict.output) == ("they differ", "before\n")


@needs_sandbox
def test_the_library_and_the_working_directory_can_be_used():
    source = (
        "import collections, decimal, hashlib, heapq, json, math, random, re, statistics, typing\n"
        "with open('a.txt', 'w') as file: file.write('x' * 1000)\n"
        "assert len(open('a.txt').read()) == 1000\n"
        "assert json.loads(json.dumps({'a': [1]})) == {'a': [1]}\n"
        "assert __name__ == '__main__'\n"
    )
    assert run_program(source).outcome == "passed"


@needs_sandbox
def test_packages_are_there_when_they_are_named():
    import numpy

    folder = str(numpy.__path__[0]).rsplit("/", 1)[0]
    source = "import numpy\nassert numpy.allclose(numpy.ones(3).sum(), 3)"
    assert run_program(source).kind == "ModuleNotFoundError"
    assert run_program(source, Limits(packages=(folder,))).outcome == "passed"


@needs_sandbox
def test_input_can_be_given():
    assert run_program("assert input() == 'a' and input() == 'b'", stdin="a\nb\n").passed


@needs_sandbox
def test_verdicts_come_in_order():
    sources = [f"import time; time.sleep({0.2 if i % 3 else 0}); print({i})" for i in range(9)]
    outputs = [verdict.output for verdict in run_programs(iter(sources), num_workers=3)]
    assert outputs == [f"{i}\n" for i in range(9)]


@needs_sandbox
def test_programs_are_taken_as_they_are_needed():
    taken = 0

    def sources():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield "pass"

    results = run_programs(sources(), num_workers=2)
    next(results)
    assert taken <= 6
    results.close()


def test_without_confinement_nothing_runs(monkeypatch):
    monkeypatch.setattr(confinement, "landlock_version", lambda: -1)
    with pytest.raises(StageError, match="lacks Landlock"):
        run_program("pass")
    with pytest.raises(StageError, match="cannot confine a program"):
        next(run_programs(["pass"]))


@needs_sandbox
def test_a_program_that_cannot_be_confined_does_not_run(tmp_path):
    evil = tmp_path / "ran"
    with pytest.raises(StageError, match="could not be confined"):
        run_program(f"open({str(evil)!r}, 'w')", Limits(cpu_seconds="many"))
    assert not evil.exists()
