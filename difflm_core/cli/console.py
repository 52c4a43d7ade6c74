"""What the command line prints: progress and errors to stderr, results to stdout."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from difflm_core.errors import DiffLMError

if TYPE_CHECKING:
    from rich.console import Console

    from difflm_core.artifacts import Artifact
    from difflm_core.outputs import OutputPlan
    from difflm_core.progress import Sink


@dataclass
class Settings:
    """Options of the program itself.

    Attributes:
        quiet: no progress, no log.
        on: name of the launcher, where no option says otherwise.
        program: the command as a person types it.
    """

    quiet: bool = False
    on: str = "local"
    program: str = "difflm"


SETTINGS = Settings()
# What a plan means before (`--dry-run`) and after a run.
WILL = {"run": "run", "reuse": "reuse", "resume": "continue", "replace": "replace"}
DONE = {"run": "done", "reuse": "reused", "resume": "continued", "replace": "replaced"}


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a user's error and Ctrl-C into one message and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except DiffLMError as error:
            print_error(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            again = [argument for argument in sys.argv[1:] if argument != "--fresh"]
            print_error(
                f"What is finished is kept. Continue with: {SETTINGS.program} {shlex.join(again)}",
                title="Stopped",
                style="bold yellow",
            )
            raise typer.Exit(130) from None

    return wrapper


def error_console() -> Console:
    """Console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_error(message: str, title: str = "Error", style: str = "bold red") -> None:
    """Print one message for a person."""
    from rich.text import Text

    error_console().print(Text.assemble((f"{title}: ", style), message), soft_wrap=True)


def start_output(headings: bool = False) -> list[Sink]:
    """Set up logging, and return where progress goes.

    Args:
        headings: `announce` names the stages, so their own log may be short.
    """
    import logging

    from difflm_core.progress import console_sink, setup_logging

    console = error_console()
    setup_logging(console, logging.WARNING if SETTINGS.quiet else logging.INFO)
    if headings:
        logging.getLogger("difflm.stage").setLevel(logging.WARNING)
    return [] if SETTINGS.quiet else [console_sink(console)]


def announce(number: int, total: int, plan: OutputPlan) -> None:
    """Print the heading of a stage of a run."""
    if not SETTINGS.quiet:
        note = "" if plan.status == "run" else f" ({WILL[plan.status]})"
        heading = f"[{number}/{total}] {plan.stage}{note}"
        error_console().print(heading, style="bold", markup=False)


def print_report(artifact: Artifact) -> None:
    """Print the headline values of a report, and where its pages are."""
    from difflm_core.config_file import flatten

    values = flatten(artifact.manifest.summary)
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name:<{width}}  {shown}")
    for entry in artifact.files(suffix=".html"):
        print(f"\nReport: {artifact.path(entry.path)}")
