"""Commands that judge generated code by running it."""

from __future__ import annotations

from typing import Annotated

import typer

from difflm_core.cli.console import start_output
from difflm_core.errors import ConfigError, DataError


def check(
    problems: Annotated[
        str,
        typer.Argument(
            metavar="PROBLEMS", help="HumanEval, HumanEval+, MBPP or MBPP+: a .jsonl file, or .gz."
        ),
    ],
    solutions: Annotated[
        str | None,
        typer.Option(
            "--solutions",
            metavar="FILE",
            help="JSON Lines of task_id and completion (or solution). Without it, the problems' "
            "own solutions are run, which must all pass.",
        ),
    ] = None,
    ks: Annotated[str, typer.Option("-k", metavar="K,K,...", help="For which k.")] = "1",
    wall_seconds: Annotated[
        float, typer.Option(min=0.1, help="Time for each program, in seconds.")
    ] = 10.0,
    num_workers: Annotated[
        int | None, typer.Option(min=1, help="Programs at a time; all cores by default.")
    ] = None,
    packages: Annotated[
        bool, typer.Option("--packages", help="Let programs import what is installed here.")
    ] = False,
) -> None:
    """Run solutions of programming problems in a sandbox, and print pass@k.

    A program has no network, no other processes, no files but its own, and limits of time and
    memory. Linux only.
    """
    import math
    import sysconfig

    from difflm_core.evaluation.execution.pass_at_k import (
        canonical_solutions,
        check_solutions,
        read_solutions,
    )
    from difflm_core.evaluation.execution.problems import read_problems
    from difflm_core.progress import Progress
    from difflm_core.sandbox import Limits

    wanted = _numbers(ks)
    known = read_problems(problems)
    given = list(read_solutions(solutions) if solutions else canonical_solutions(known))
    names = {problem.task_id for problem in known}
    foreign = next((s.task_id for s in given if s.task_id not in names), None)
    if foreign is not None:
        raise DataError(
            f"{solutions}: task_id {foreign!r} is not in {problems}; expected names such as "
            f"{known[0].task_id!r}"
        )
    folders = (sysconfig.get_path("purelib"),) if packages else ()
    limits = Limits(wall_seconds, math.ceil(wall_seconds), packages=folders)
    progress = Progress(start_output(headings=False))
    with progress.track("Running programs", total=len(given), unit="programs") as bar:
        result = check_solutions(
            known,
            given,
            ks=wanted,
            limits=limits,
            num_workers=num_workers,
            on_verdict=lambda solution, verdict: bar.advance(1),
        )
    for score in result.scores:
        print(f"pass@{score.k:<4} {score.value:.4f}  (95 %: {score.low:.4f} to {score.high:.4f})")
    print(f"{result.num_solutions:,} solutions of {result.num_problems:,} problems: ", end="")
    print(", ".join(f"{count:,} {name}" for name, count in sorted(result.outcomes.items())))
    if result.failed:
        shown = ", ".join(result.failed[:20])
        more = f" and {len(result.failed) - 20:,} more" if len(result.failed) > 20 else ""
        print(f"without a right solution: {shown}{more}")


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"-k {text}: expected numbers of at least 1, such as 1,10.")
    return found
