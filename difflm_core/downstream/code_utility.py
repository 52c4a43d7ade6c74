"""pass@k of one model that was fine-tuned on real, on synthetic, and on mixed code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

from difflm_core.device import Compute
from difflm_core.downstream.code_model import CodeModel, TuningOptions, WritingOptions
from difflm_core.errors import DataError
from difflm_core.evaluation.execution.pass_at_k import (
    ExecutionResult,
    Solution,
    check_solutions,
)
from difflm_core.evaluation.execution.problems import Problem, end_of_solution, trim_solution
from difflm_core.progress import SILENT, Progress
from difflm_core.sandbox import Limits, require_sandbox
from difflm_core.seeds import numpy_generator
from difflm_core.vae.pretrained import PretrainedSpec

# Shorter solutions are found in any corpus.
MIN_LEAK_CHARACTERS = 40


@dataclass(frozen=True)
class UtilityOptions:
    """How the corpora are compared.

    Attributes:
        tuning: How each model is fine-tuned.
        writing: How it solves problems.
        ks: For which k pass@k is reported.
        num_seeds: Models of each corpus, which differ in order and draws; their solutions count
            together.
        seed: The first of the seeds.
        limits: What each program may use.
        num_workers: Programs at a time; None: all cores.
    """

    tuning: TuningOptions = field(default_factory=TuningOptions)
    writing: WritingOptions = field(default_factory=WritingOptions)
    ks: tuple[int, ...] = (1,)
    num_seeds: int = 1
    seed: int = 0
    limits: Limits | None = None
    num_workers: int | None = None


@dataclass(frozen=True)
class CorpusUtility:
    """What one corpus has taught.

    Attributes:
        corpus: `none` (the model as it was), `real`, `synthetic` or `mixed`.
        num_documents: Its documents.
        num_leaked: Problems whose own solution stands in one of them.
        solution_bits: Bits per character of the problems' own solutions behind their prompts, by
            seed: what shows also where a model is too small to solve anything.
        execution: pass@k, and how the programs ended.
    """

    corpus: str
    num_documents: int
    num_leaked: int
    solution_bits: tuple[float, ...]
    execution: ExecutionResult

    @property
    def mean_bits(self) -> float:
        """Mean of `solution_bits`."""
        return mean(self.solution_bits)

    @property
    def bits_deviation(self) -> float | None:
        """Standard deviation of `solution_bits` over seeds; None: there is one."""
        return stdev(self.solution_bits) if len(self.solution_bits) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_code_utility(
    problems: Sequence[Problem],
    real: Sequence[str],
    synthetic: Sequence[str],
    model: PretrainedSpec,
    compute: Compute,
    options: UtilityOptions,
    *,
    progress: Progress = SILENT,
) -> list[CorpusUtility]:
    """Fine-tune one model on each corpus, and let each solve the problems.

    All read equally many tokens. `mixed` has equally many documents of both, so that the larger
    corpus does not drown the smaller one.

    Args:
        problems: What is to be solved.
        real: Real code.
        synthetic: Generated code.
        model: The model that is fine-tuned, anew for each corpus and seed.
        compute: Where, and in which precision.
        options: How.
        progress: Told about every part.

    Raises:
        DataError: a corpus is empty.
        ConfigError: the model cannot be had.
        StageError: programs cannot be confined on this machine.
    """
    require_sandbox()  # before anything is trained
    for name, texts in (("real", real), ("synthetic", synthetic)):
        if not texts:
            raise DataError(f"The {name} corpus has no documents; expected at least one.")
    results: list[CorpusUtility] = []
    for name, texts in _corpora(real, synthetic, options.seed).items():
        bits: list[float] = []
        solutions: list[Solution] = []
        for seed in range(options.seed, options.seed + options.num_seeds):
            tuned = CodeModel(model, compute, seed=seed)
            if texts:
                title = f"Tuning on {name} code"
                tuned.tune(texts, options.tuning, title=title, progress=progress)
            bits.append(_solution_bits(tuned, problems))
            solutions += _solve(tuned, problems, options.writing, progress)
        with progress.track("Running programs", total=len(solutions), unit="programs") as bar:
            execution = check_solutions(
                problems,
                solutions,
                ks=options.ks,
                limits=options.limits,
                num_workers=options.num_workers,
                on_verdict=lambda solution, verdict, bar=bar: bar.advance(1),
            )
        leaked = num_leaked(problems, texts)
        results.append(CorpusUtility(name, len(texts), leaked, tuple(bits), execution))
    return results


def num_leaked(problems: Sequence[Problem], texts: Sequence[str]) -> int:
    """Problems whose own solution stands in one of the texts, blanks aside."""
    corpus = "\0".join("".join(text.split()) for text in texts)
    keys = ["".join(problem.canonical_solution.split()) for problem in problems]
    return sum(len(key) >= MIN_LEAK_CHARACTERS and key in corpus for key in keys)


def _corpora(real: Sequence[str], synthetic: Sequence[str], seed: int) -> Mapping[str, list[str]]:
    half = min(len(real), len(synthetic))
    mixed = [
        *_some(real, half, seed, "real"),
        *_some(synthetic, half, seed, "synthetic"),
    ]
    return {"none": [], "real": list(real), "synthetic": list(synthetic), "mixed": mixed}


def _some(texts: Sequence[str], count: int, seed: int, purpose: str) -> list[str]:
    order = numpy_generator(seed, f"mixed-{purpose}").permutation(len(texts))
    return [texts[int(index)] for index in order[:count]]


def _solution_bits(tuned: CodeModel, problems: Sequence[Problem]) -> float:
    return tuned.bits_per_character(
        [problem.prompt for problem in problems],
        [problem.canonical_solution for problem in problems],
    )


def _solve(
    tuned: CodeModel, problems: Sequence[Problem], writing: WritingOptions, progress: Progress
) -> list[Solution]:
    written = tuned.complete(
        [problem.prompt for problem in problems],
        [end_of_solution(problem) for problem in problems],
        writing,
        progress=progress,
    )
    return [
        Solution(problem.task_id, trim_solution(problem, text))
        for problem, texts in zip(problems, written, strict=True)
        for text in texts
    ]
