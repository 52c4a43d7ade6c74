"""The command line: one subcommand per stage, made from the stages, and a few for people.

Nothing heavy is imported until a command needs it: `difflm --help` loads no torch and no pyarrow.
An error of the user is one message and exit code 2; Ctrl-C says how to go on, and exits with 130.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from difflm_core.cli.console import SETTINGS, explained
from difflm_core.cli.model_commands import fit, report, sample
from difflm_core.cli.settings_commands import docs, infer, show, validate
from difflm_core.cli.stage_commands import run, stage_command

STAGE_PANEL = "Stages, one at a time"
_HELP = """Synthetic tables from real ones, and a report on how good and how private they are.

\b
  difflm run run.yaml                           a table in, a report out
  difflm fit data.csv -o model/                 learn from a table
  difflm sample model/ -n 1000 -o out.parquet   make new records
  difflm report runs/adult                      the scores, and where the report is

Stopped? Run the same command again: it continues where it stopped.
"""


def main(argv: list[str] | None = None, on: str = "local", program: str = "difflm") -> None:
    """Run the command line.

    Args:
        argv: the arguments; those of the process by default.
        on: name of the launcher that does the work, unless `--on` says otherwise.
        program: what the program is called in messages.
    """
    SETTINGS.on = on
    SETTINGS.program = program
    build_app()(args=argv, prog_name=program)


def build_app() -> typer.Typer:
    """Make the application, with one subcommand for each stage."""
    from difflm_core.stages import load_stages

    app = _group(_HELP)
    app.callback()(_root)
    _add(
        app,
        run,
        "difflm run run.yaml",
        "difflm run run.yaml --set generation.num_rows=100000 --output runs/large",
        "difflm run run.yaml --dry-run",
        "difflm run run.yaml --on ray --set runtime.num_workers=8",
    )
    _add(
        app,
        fit,
        "difflm fit data.csv -o model/",
        "difflm fit 'data/*.parquet' -o model/ --target income --set seed=1",
    )
    _add(
        app,
        sample,
        "difflm sample model/ -n 1000 -o out.parquet",
        "difflm sample runs/adult/generator -n 50 -o out.csv --seed 7",
    )
    _add(app, report, "difflm report runs/adult", "difflm report runs/adult --open")
    for stage in load_stages():
        argv = stage.argv("run.yaml", dict.fromkeys(stage.inputs, "URI"), "URI")
        example = " ".join(["difflm", *argv])
        _add(app, stage_command(stage), example, name=stage.name, panel=STAGE_PANEL)
    config = _group("Show, check or document a configuration.")
    _add(config, show, "difflm config show run.yaml --set seed=3")
    _add(config, validate, "difflm config validate run.yaml")
    _add(config, docs, "difflm config docs > docs/config.md")
    app.add_typer(config, name="config")
    schema = _group("Look at the columns of a table.")
    schema.callback()(_schema)
    _add(
        schema,
        infer,
        "difflm schema infer data.csv",
        "difflm schema infer data.csv -o schema.json --target income --missing '?'",
    )
    app.add_typer(schema, name="schema")
    return app


def _group(text: str) -> typer.Typer:
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _add(
    app: typer.Typer,
    command: Callable[..., None],
    *examples: str,
    name: str | None = None,
    panel: str | None = None,
) -> None:
    """Add a command whose help is its docstring and examples."""
    lines = "\n".join(f"  {example}" for example in examples)
    text = f"{inspect.getdoc(command)}\n\n\b\n{lines}"
    app.command(name, help=text, rich_help_panel=panel)(explained(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        print(importlib.metadata.version("difflm-on-ray"))
        raise typer.Exit


def _root(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no log.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    SETTINGS.quiet = quiet


_root.__doc__ = _HELP


def _schema() -> None:
    """Look at the columns of a table."""
