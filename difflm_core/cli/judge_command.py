"""The command that asks a language model about synthetic tools."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from difflm_core.cli.console import start_output
from difflm_core.cli.corpora import read_corpus
from difflm_core.errors import ConfigError

if TYPE_CHECKING:
    from difflm_core.judge.verdicts import JudgeResult, Preferences


def judge(
    real: Annotated[
        str, typer.Argument(metavar="REAL", help="Real tools: .jsonl, .json or .parquet.")
    ],
    synthetic: Annotated[
        str, typer.Argument(metavar="SYNTHETIC", help="Synthetic tools, or a run's folder.")
    ],
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", help="OpenAI-compatible API; ends in /v1."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Model of the endpoint.")
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option("--key-env", metavar="NAME", help="Environment variable with the API's key."),
    ] = None,
    local: Annotated[
        str | None,
        typer.Option("--local", metavar="PATH", help="A Hugging Face model that runs here."),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option("--category", metavar="FIELD", help="Field whose values are compared apart."),
    ] = None,
    max_scored: Annotated[int, typer.Option(min=1, help="Tools of each side to score.")] = 100,
    max_groups: Annotated[int, typer.Option(min=1, help="Pairs of sets to compare.")] = 100,
    tools_per_set: Annotated[int, typer.Option(min=1, help="Tools of a set.")] = 5,
    max_requests: Annotated[int, typer.Option(min=0, help="Requests in all; 0: any number.")] = 0,
    cache: Annotated[
        str | None,
        typer.Option("--cache", metavar="URI", help="Folder of answers; a rerun reuses them."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write the result as JSON.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
) -> None:
    """Let a language model judge synthetic tools beside real ones.

    Each tool gets a score from 1 to 10; sets of tools of the same category are compared, each pair
    in both orders. What real tools get is shown beside it.
    """
    from difflm_core import storage
    from difflm_core.judge.verdicts import JudgeOptions, judge_tools, num_questions
    from difflm_core.progress import Progress

    options = JudgeOptions(max_scored, max_groups, tools_per_set, seed=seed)
    asked = _open_judge(endpoint, model, key_env, local, cache, max_requests)
    real_tools, made_tools = _read_tools(real), _read_tools(synthetic)
    progress = Progress(start_output(headings=False))
    total = num_questions(len(real_tools), len(made_tools), options)

    def category_of(tool: Any) -> str:
        return str(tool.get(category, "")) if category and isinstance(tool, dict) else ""

    try:
        with progress.track("Asking the judge", total=total, unit="answers") as bar:
            result = judge_tools(
                real_tools,
                made_tools,
                asked,
                options,
                category_of=category_of,
                on_answer=lambda: bar.advance(1),
            )
    finally:
        asked.close()
    if output:
        storage.write_text(output, json.dumps(result.to_dict(), indent=2) + "\n")
    _print(result)


def _open_judge(
    endpoint: str | None,
    model: str | None,
    key_env: str | None,
    local: str | None,
    cache: str | None,
    max_requests: int,
) -> Any:
    if (endpoint is None) == (local is None):
        raise ConfigError("Name one judge: --endpoint URL --model NAME, or --local PATH.")
    if local is not None:
        from difflm_core.judge.local import LocalJudge

        return LocalJudge(local)
    if model is None:
        raise ConfigError("--endpoint needs --model NAME, the model that is asked.")
    key = None
    if key_env is not None:
        key = os.environ.get(key_env)
        if not key:
            raise ConfigError(
                f"--key-env {key_env}: there is no such environment variable, or it is empty; "
                "expected the name of the variable that holds the key (never the key itself)."
            )
    try:
        from difflm_core.judge.endpoint import EndpointJudge, EndpointOptions
    except ModuleNotFoundError:
        raise ConfigError(
            "--endpoint needs the package httpx, which is not installed here. Install it: "
            "pip install 'difflm-on-ray[client]'; or judge with --local PATH."
        ) from None

    settings = EndpointOptions(str(endpoint), model, cache=cache, max_requests=max_requests)
    return EndpointJudge(settings, key)


def _read_tools(uri: str) -> list[Any]:
    from difflm_core.data.schema import DataKind

    return [json.loads(text) for text in read_corpus(uri, DataKind.JSON)]


def _print(result: JudgeResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "synthetic", "real", box=None, pad_edge=False)
    made, real = result.synthetic, result.real
    table.add_row(
        "score, 1 to 10",
        f"{made.mean:.2f} ({made.low:.2f} to {made.high:.2f})",
        f"{real.mean:.2f} ({real.low:.2f} to {real.high:.2f})",
    )
    rows = [("preferred to real sets", result.preference)]
    if result.control is not None:
        rows.append(("real sets to other real ones", result.control))
    for name, found in rows:
        table.add_row(name, _preference(found), "")
    console = Console()
    console.print(table)
    lines = [
        f"{result.judge}: {result.num_requests:,} requests, {result.num_cached:,} answers kept "
        f"from before, {result.num_tokens:,} tokens",
    ]
    for reason, count in sorted(result.unanswered.items()):
        lines.append(f"{count:,} questions without an answer: {reason}")
    console.print("\n".join(lines), highlight=False, markup=False)


def _preference(found: Preferences) -> str:
    return (
        f"{found.wins} won, {found.ties} tied, {found.losses} lost "
        f"(won {found.win_rate:.0%}, {found.win_low:.0%} to {found.win_high:.0%})"
    )
