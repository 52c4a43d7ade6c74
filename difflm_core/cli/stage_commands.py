"""Commands that run stages: one each, and all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from difflm_core.cli.console import (
    DONE,
    SETTINGS,
    WILL,
    announce,
    print_report,
    start_output,
)
from difflm_core.cli.options import (
    ConfigOption,
    FreshOption,
    ReplaceChangedOption,
    SetOption,
    replace_mode,
)

if TYPE_CHECKING:
    from difflm_core.stage import Stage


def stage_command(stage: Stage) -> Callable[..., None]:
    """Make the command of a stage; its flags come from the stage's inputs."""
    from difflm_core.stage import flag

    def command(**values: Any) -> None:
        _run_one_stage(stage, **values)

    parameters: dict[str, tuple[Any, Any]] = {"config": (ConfigOption, None)}
    for name, kind in stage.inputs.items():
        option = typer.Option(flag(name), metavar="URI", help=f"Input: a {kind.kind()}.")
        parameters[name] = (Annotated[str, option], inspect.Parameter.empty)
    option = typer.Option("--output", "-o", metavar="URI", help=f"Output: a {stage.output.kind()}.")
    parameters["output"] = (Annotated[str, option], inspect.Parameter.empty)
    parameters["overrides"] = (SetOption, inspect.Parameter.empty)
    parameters["fresh"] = (FreshOption, False)
    parameters["replace_changed"] = (ReplaceChangedOption, False)
    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature(
        [
            inspect.Parameter(name, keyword, default=default, annotation=annotation)
            for name, (annotation, default) in parameters.items()
        ]
    )
    vars(command)["__signature__"] = signature
    command.__annotations__ = {name: value[0] for name, value in parameters.items()}
    command.__doc__ = stage.summary
    return command


def _run_one_stage(
    stage: Stage,
    *,
    config: str | None,
    output: str,
    overrides: list[str],
    fresh: bool,
    replace_changed: bool,
    **inputs: str,
) -> None:
    from difflm_core.config_file import load_config
    from difflm_core.launchers import open_launcher
    from difflm_core.stage import run_stage

    settings = load_config(config, overrides)
    with open_launcher(SETTINGS.on, None, settings.runtime) as launcher:
        artifact = run_stage(
            stage,
            settings.section(stage.config_type),
            inputs,
            output,
            launcher,
            seed=settings.seed,
            runtime=settings.runtime,
            replace=replace_mode(fresh, replace_changed),
            sinks=start_output(),
        )
    print(artifact.uri)


def run(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Configuration (YAML).")],
    overrides: SetOption,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="URI", help="Run directory, instead of `output:`."),
    ] = None,
    fresh: FreshOption = False,
    replace_changed: ReplaceChangedOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would be done.")
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="local|ray", help="Where the work runs.", show_default="local"
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="An existing Ray cluster, instead of one embedded here (default: RAY_ADDRESS).",
        ),
    ] = None,
) -> None:
    """From a table to a report: all six stages."""
    from difflm_core.config_file import load_config
    from difflm_core.launchers import open_launcher
    from difflm_core.stages.pipeline import plan_pipeline, run_pipeline
    from difflm_core.stages.serialize import open_records

    settings = load_config(config, overrides)
    if output:
        settings = settings.model_copy(update={"output": output})
    settings.require_source(config)
    replace = replace_mode(fresh, replace_changed)
    with open_launcher(on or SETTINGS.on, address, settings.runtime) as launcher:
        if dry_run:
            open_records(settings.data)
            for plan in plan_pipeline(settings, replace=replace):
                print(f"{WILL[plan.status]:<10} {plan.stage:<16} {plan.uri}")
            return
        sinks = start_output(headings=True)
        results = run_pipeline(settings, launcher, replace=replace, sinks=sinks, on_stage=announce)
    print(f"\n{'stage':<16} {'':<10} {'time':>8} {'cpu time':>8} {'memory':>9}  artifact")
    for result in results:
        done = result.artifact.manifest.provenance
        print(
            f"{result.stage:<16} {DONE[result.status]:<10} "
            f"{_time(done.duration_seconds):>8} {_cpu_time(done.cpu_hours):>8} "
            f"{_memory(done.peak_memory_bytes):>9}  "
            f"{result.artifact.uri}"
        )
    print_report(results[-1].artifact)


def _time(seconds: float) -> str:
    from difflm_core.progress import format_seconds

    return format_seconds(seconds)


def _cpu_time(hours: float | None) -> str:
    return "" if hours is None else _time(hours * 3600)


def _memory(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / 2**20:,.0f} MiB"
