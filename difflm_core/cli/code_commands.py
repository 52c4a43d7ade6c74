"""Commands that judge generated code by running it, and by what it teaches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from difflm_core.cli.console import start_output
from difflm_core.cli.corpora import read_corpus
from difflm_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from difflm_core.downstream.code_utility import CorpusUtility
    from difflm_core.sandbox import Limits

# What both commands are told about problems, and about running programs.
Problems = Annotated[
    str,
    typer.Argument(
        metavar="PROBLEMS", help="HumanEval, HumanEval+, MBPP or MBPP+: a .jsonl file, or .gz."
    ),
]
Ks = Annotated[str, typer.Option("-k", metavar="K,K,...", help="For which k.")]
WallSeconds = Annotated[float, typer.Option(min=0.1, help="Time for each program, in seconds.")]
NumWorkers = Annotated[
    int | None, typer.Option(min=1, help="Programs at a time; all cores by default.")
]
Packages = Annotated[
    bool, typer.Option("--packages", help="Let programs import what is installed here.")
]
TunedPart = Literal["full", "lora"]


def check(
    problems: Problems,
    solutions: Annotated[
        str | None,
        typer.Option(
            "--solutions",
            metavar="FILE",
            help="JSON Lines of task_id and completion (or solution). Without it, the problems' "
            "own solutions are run, which must all pass.",
        ),
    ] = None,
    ks: Ks = "1",
    wall_seconds: WallSeconds = 10.0,
    num_workers: NumWorkers = None,
    packages: Packages = False,
) -> None:
    """Run solutions of programming problems in a sandbox, and print pass@k.

    A program has no network, no other processes, no files but its own, and limits of time and
    memory. Linux only.
    """
    from difflm_core.evaluation.execution.pass_at_k import (
        canonical_solutions,
        check_solutions,
        read_solutions,
    )
    from difflm_core.evaluation.execution.problems import read_problems
    from difflm_core.progress import Progress

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
    progress = Progress(start_output(headings=False))
    with progress.track("Running programs", total=len(given), unit="programs") as bar:
        result = check_solutions(
            known,
            given,
            ks=wanted,
            limits=_limits(wall_seconds, packages),
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


def utility(
    problems: Problems,
    real: Annotated[
        str,
        typer.Option("--real", metavar="PATH", help="Real code: .py files, .jsonl or .parquet."),
    ],
    synthetic: Annotated[
        str,
        typer.Option("--synthetic", metavar="PATH", help="Generated code, or a run's folder."),
    ],
    model: Annotated[
        str,
        typer.Option("--model", metavar="MODEL", help="Hugging Face model: a folder, or a hub id."),
    ],
    field: Annotated[
        str | None,
        typer.Option("--field", metavar="NAME", help="Field of the records that is the code."),
    ] = None,
    tuned: Annotated[
        TunedPart, typer.Option("--tuned", help="All weights of the model, or adapters.")
    ] = "full",
    ks: Ks = "1",
    num_samples: Annotated[
        int | None, typer.Option(min=1, help="Solutions of each problem; the largest k by default.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Of the solutions; 0 takes the likeliest token.")
    ] = 0.2,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest solution.")] = 256,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that each model reads in its training.")
    ] = 500_000,
    lr: Annotated[float, typer.Option(min=0.0, help="Learning rate of AdamW.")] = 1e-4,
    num_seeds: Annotated[int, typer.Option("--seeds", min=1, help="Models of each corpus.")] = 1,
    wall_seconds: WallSeconds = 10.0,
    num_workers: NumWorkers = None,
    packages: Packages = False,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")
    ] = "auto",
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write the result as JSON.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of order, draws and adapters.")] = 0,
) -> None:
    """Fine-tune a language model on real, synthetic and mixed code, and print pass@k of each.

    Each reads the same number of tokens, and solves the same problems in the sandbox; the model as
    it was stands beside them. Where a model is too small to solve problems, the bits per character
    of their own solutions still show what it has learned.
    """
    from difflm_core import storage
    from difflm_core.data.schema import DataKind
    from difflm_core.device import choose_compute
    from difflm_core.downstream.code_model import TuningOptions, WritingOptions
    from difflm_core.downstream.code_utility import UtilityOptions, measure_code_utility
    from difflm_core.evaluation.execution.problems import read_problems
    from difflm_core.progress import Progress
    from difflm_core.vae.pretrained import PretrainedSpec

    wanted = _numbers(ks)
    samples = num_samples or max(wanted)
    if samples * num_seeds < max(wanted):
        raise ConfigError(
            f"-k {ks} with {samples * num_seeds} solutions of each problem: pass@{max(wanted)} "
            "needs as many; raise --num-samples or --seeds."
        )
    if temperature == 0 and samples > 1:
        raise ConfigError(
            f"--temperature 0 with {samples} solutions of each problem: they would all be the "
            "same; raise the temperature, or ask for one."
        )
    options = UtilityOptions(
        TuningOptions(max_tokens, lr=lr),
        WritingOptions(samples, temperature, max_new_tokens=max_new_tokens),
        ks=tuple(wanted),
        num_seeds=num_seeds,
        seed=seed,
        limits=_limits(wall_seconds, packages),
        num_workers=num_workers,
    )
    known = read_problems(problems)
    real_texts = read_corpus(real, DataKind.CODE, field)
    made_texts = read_corpus(synthetic, DataKind.CODE, field)
    results = measure_code_utility(
        known,
        real_texts,
        made_texts,
        PretrainedSpec(model, training=tuned),
        choose_compute(device),
        options,
        progress=Progress(start_output(headings=False)),
    )
    if output:
        shown = {"model": model, "problems": problems, "num_problems": len(known)}
        shown |= {"corpora": [result.to_dict() for result in results]}
        storage.write_text(output, json.dumps(shown, indent=2) + "\n")
    _print_utility(results)


def _print_utility(results: list[CorpusUtility]) -> None:
    from rich.console import Console
    from rich.table import Table

    scores = [f"pass@{score.k}" for score in results[0].execution.scores]
    table = Table("tuned on", "documents", *scores, "bits per character", box=None, pad_edge=False)
    for result in results:
        deviation = result.bits_deviation
        spread = "" if deviation is None else f" \N{PLUS-MINUS SIGN} {deviation:.3f}"
        table.add_row(
            "nothing" if result.corpus == "none" else f"{result.corpus} code",
            f"{result.num_documents:,}",
            *(f"{s.value:.4f} ({s.low:.4f} to {s.high:.4f})" for s in result.execution.scores),
            f"{result.mean_bits:.3f}{spread}",
        )
    console = Console()
    console.print(table)
    for result in results:
        if result.num_leaked:
            console.print(
                f"{result.num_leaked:,} problems have their own solution in the {result.corpus} "
                "code: take it out, or they prove nothing",
                style="yellow",
            )


def _limits(wall_seconds: float, packages: bool) -> Limits:
    import math
    import sysconfig

    from difflm_core.sandbox import Limits

    folders = (sysconfig.get_path("purelib"),) if packages else ()
    return Limits(wall_seconds, math.ceil(wall_seconds), packages=folders)


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"-k {text}: expected numbers of at least 1, such as 1,10.")
    return found
