"""The command line: one subcommand per stage, made from the stages, and a few for people.

Nothing heavy is imported until a command needs it: `difflm --help` loads no torch and no pyarrow.
An error of the user is one message and exit code 2; Ctrl-C says how to go on, and exits with 130.
"""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from difflm_core.cli.code_commands import check, utility
from difflm_core.cli.console import SETTINGS
from difflm_core.cli.groups import add_command, command_group
from difflm_core.cli.judge_command import judge
from difflm_core.cli.model_commands import fit, report, sample
from difflm_core.cli.settings_commands import docs, infer, show, validate
from difflm_core.cli.stage_commands import run, stage_command
from difflm_core.cli.tools_command import convert

STAGE_PANEL = "Stages, one at a time"
# Installed packages bring commands: functions that add them to a `typer.Typer`, and import nothing
# heavy.
COMMANDS = "difflm.commands"
_HELP = """Synthetic tables, documents and code from real ones, and a report on how good they are.

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

    app = command_group(_HELP)
    app.callback()(_root)
    add_command(
        app,
        run,
        "difflm run run.yaml",
        "difflm run run.yaml --set generation.num_rows=100000 --output runs/large",
        "difflm run run.yaml --dry-run",
        "difflm run run.yaml --on ray --set runtime.num_workers=8",
    )
    add_command(
        app,
        fit,
        "difflm fit data.csv -o model/",
        "difflm fit 'data/*.parquet' -o model/ --target income --set seed=1",
    )
    add_command(
        app,
        sample,
        "difflm sample model/ -n 1000 -o out.parquet",
        "difflm sample runs/adult/generator -n 50 -o out.csv --seed 7",
        "difflm sample model/ -n 50 -o out.csv --where sex=Female --where age=30..40",
        "difflm sample model/ -n 50 -o out.csv --where 'job=nurse|cook' "
        "--where joined=2024-01-31..",
    )
    add_command(app, report, "difflm report runs/adult", "difflm report runs/adult --open")
    add_command(
        app,
        judge,
        "difflm judge tools.jsonl runs/tools --endpoint https://host/v1 --model NAME --key-env KEY",
        "difflm judge tools.jsonl runs/tools --local models/judge --category category_name",
    )
    for stage in load_stages():
        argv = stage.argv("run.yaml", dict.fromkeys(stage.inputs, "URI"), "URI")
        example = " ".join(["difflm", *argv])
        add_command(app, stage_command(stage), example, name=stage.name, panel=STAGE_PANEL)
    code = command_group("Judge generated code by running it, and by what it teaches.")
    add_command(
        code,
        check,
        "difflm code check HumanEval.jsonl.gz",
        "difflm code check mbpp.jsonl --solutions samples.jsonl -k 1,10",
    )
    add_command(
        code,
        utility,
        "difflm code utility HumanEval.jsonl.gz --model models/small --real src/ "
        "--synthetic runs/code",
        "difflm code utility mbpp.jsonl --model models/small --tuned lora -k 1,10 "
        "--real code.jsonl --synthetic made.parquet",
    )
    app.add_typer(code, name="code")
    tools = command_group("Descriptions of tools in the forms of several collections.")
    tools.callback()(_tools)
    add_command(
        tools,
        convert,
        "difflm tools convert toolbench_apis.jsonl.gz functions.jsonl",
        "difflm tools convert functions.jsonl tools.jsonl --to seal",
    )
    app.add_typer(tools, name="tools")
    config = command_group("Show, check or document a configuration.")
    add_command(config, show, "difflm config show run.yaml --set seed=3")
    add_command(config, validate, "difflm config validate run.yaml")
    add_command(config, docs, "difflm config docs > docs/config.md")
    app.add_typer(config, name="config")
    schema = command_group("Look at the columns of a table, or at the parts of documents.")
    schema.callback()(_schema)
    add_command(
        schema,
        infer,
        "difflm schema infer data.csv",
        "difflm schema infer data.csv -o schema.json --target income --missing '?'",
        "difflm schema infer dialogues.jsonl --kind json --field goal",
    )
    app.add_typer(schema, name="schema")
    for entry in importlib.metadata.entry_points(group=COMMANDS):
        entry.load()(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
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
    """Look at the columns of a table, or at the parts of documents."""


def _tools() -> None:
    """Descriptions of tools in the forms of several collections."""
