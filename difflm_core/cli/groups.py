"""How commands look and fail, everywhere the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import typer

from difflm_core.cli.console import explained


def command_group(text: str) -> typer.Typer:
    """Make a group of commands; its help is the text."""
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def add_command(
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
