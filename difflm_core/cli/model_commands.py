"""Commands for a person with a table: fit, sample, report."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from difflm_core.cli.console import announce, print_report, start_output
from difflm_core.cli.options import (
    ConfigOption,
    FreshOption,
    ReplaceChangedOption,
    SetOption,
    WhereOption,
    replace_mode,
)
from difflm_core.errors import ConfigError

if TYPE_CHECKING:
    from difflm_core.config import RunConfig


def fit(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="CSV, TSV, JSONL or Parquet: path, glob or URI.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="URI", help="Folder of the model.")
    ],
    overrides: SetOption,
    target: Annotated[
        str | None, typer.Option("--target", help="Column that a downstream model predicts.")
    ] = None,
    config: ConfigOption = None,
    fresh: FreshOption = False,
    replace_changed: ReplaceChangedOption = False,
) -> None:
    """Learn from a table, and write a model."""
    from difflm_core.stages.pipeline import fit_pipeline

    bundle = fit_pipeline(
        fit_config(data, target, config, overrides),
        output,
        replace=replace_mode(fresh, replace_changed),
        sinks=start_output(headings=True),
        on_stage=announce,
    )
    print(bundle.uri)


def fit_config(
    data: str, target: str | None, config: str | None, overrides: list[str]
) -> RunConfig:
    """Make the configuration of a fit: no records are kept for evaluation unless asked for."""
    from difflm_core.config_file import load_config

    settings = load_config(config, overrides)
    changes: dict[str, Any] = {"source": data}
    if target is not None:
        changes["target"] = target
    if "test_fraction" not in settings.data.model_fields_set:
        changes["test_fraction"] = 0.0
    section = settings.data.model_copy(update=changes)
    return settings.model_copy(update={"data": section})


def sample(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model of `difflm fit`, or a generator.")
    ],
    num_rows: Annotated[int, typer.Option("--num-rows", "-n", min=1, help="Records to make.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help=".parquet, .csv or .jsonl.")
    ],
    where: WhereOption,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same records.")] = 0,
    temperature: Annotated[float, typer.Option(help="1 keeps the learned distribution.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Probability mass kept at each token.")] = 1.0,
    max_attempts: Annotated[
        int, typer.Option(help="Most tries for a record whose free text comes out invalid.")
    ] = 16,
    precision: Annotated[
        str, typer.Option(help="auto, float32 or bfloat16; auto: the fastest of this machine.")
    ] = "auto",
) -> None:
    """Make new records with a model."""
    from difflm_core.config_file import build_config

    suffix = Path(output).suffix.lower()
    if suffix not in (".parquet", ".csv", ".jsonl"):
        raise ConfigError(
            f"{output}: the suffix {suffix or '(none)'} is not a known format. Expected a name "
            "that ends with .parquet, .csv or .jsonl."
        )
    options = {
        "temperature": temperature,
        "top_p": top_p,
        "num_rows": num_rows,
        "max_attempts": max_attempts,
    }
    runtime = {"precision": precision}
    build_config({"generation": options, "runtime": runtime, "seed": seed}, "difflm sample")
    sinks = start_output()

    from difflm_core.api import DiffLM
    from difflm_core.progress import Progress

    DiffLM.from_pretrained(model, precision=precision).sample_to(
        output,
        num_rows,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        max_attempts=max_attempts,
        conditions=where,
        progress=Progress(sinks),
    )
    print(output)


def report(
    run_or_artifact: Annotated[
        str, typer.Argument(metavar="RUN", help="A run directory, or a report in one.")
    ],
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser, too.")] = False,
) -> None:
    """Print the scores of a run, and where its report is."""
    from difflm_core import storage
    from difflm_core.artifacts import MANIFEST_NAME, EvaluationReport
    from difflm_core.stages.pipeline import artifact_uri

    uri = run_or_artifact
    if not storage.exists(storage.join(uri, MANIFEST_NAME)):
        uri = artifact_uri(uri, EvaluationReport)
    artifact = EvaluationReport.open(uri)
    print_report(artifact)
    path = storage.join(uri, "report.html")
    if open_it and storage.is_local(path) and _has_browser():
        import webbrowser

        webbrowser.open(storage.local_path(path).resolve().as_uri())


def _has_browser() -> bool:
    on_desktop = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return on_desktop and sys.stdout.isatty()
