"""A pipeline on this machine: the same components, each step a process of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Generator, Mapping
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO

from difflm_core.errors import StageError
from pipelines.compile import load_pipeline

# A line of the runner itself, and the step that it names.
_RUNNER = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} - \w+ - (?P<text>.*)$")
_BEGINS = re.compile(r"^Executing task (?:\x1b\[\d+m)?'(?P<step>[^']+)'")
_FAILED = re.compile(r"^Task (?:\x1b\[\d+m)?'(?P<step>[^']+)'.* finished with status .*FAILURE")
_INDENT = " " * 4


def run_locally(name: str, arguments: Mapping[str, Any]) -> None:
    """Run a pipeline with Kubeflow's local runner.

    What the runner writes for its steps goes to a temporary folder: artifacts are in the run
    directory, and steps that are finished there are reused.

    Raises:
        StageError: a step has failed; its message is in what was printed.
    """
    from kfp import local

    logging.getLogger("kfp").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="difflm-kfp-") as folder, _steps_of_this_python():
        local.init(
            local.SubprocessRunner(use_venv=False), pipeline_root=folder, raise_on_error=True
        )
        try:
            with contextlib.redirect_stdout(StepLog(sys.stdout)), warnings.catch_warnings():
                # The runner doubts that an image of ours holds Python.
                warnings.simplefilter("ignore", RuntimeWarning)
                # And says at every step that a process has no limits.
                warnings.simplefilter("ignore", UserWarning)
                load_pipeline(name)(**arguments)
        except RuntimeError as error:
            raise StageError(
                f"The pipeline {name} has failed: {_inner(error)}. The message of the step is "
                "above. What is finished is kept: the same command continues."
            ) from None


def _inner(error: RuntimeError) -> str:
    found = re.search(r"Inner task failed: (?:\x1b\[\d+m)?'?([\w-]+)", str(error))
    return f"the step {found[1]} did not succeed" if found else str(error).rstrip(".")


@contextlib.contextmanager
def _steps_of_this_python() -> Generator[None]:
    """Let steps import what this process imports, wherever it was started."""
    before = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (here, before) if part)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class StepLog(TextIOBase):
    """Passes on what steps print, each under its name, and nothing of Kubeflow's machinery."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""
        self._shows = False
        self._in_json = False

    def write(self, text: str, /) -> int:
        """Take text; lines go on when they are complete."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def _take(self, line: str) -> None:
        runner = _RUNNER.match(line)
        if runner:
            self._take_runner(runner["text"])
        elif self._shows and line.startswith(_INDENT):
            self._take_step(line.removeprefix(_INDENT))

    def _take_runner(self, text: str) -> None:
        # What follows, its outputs as the runner words them, is for machines.
        self._shows = False
        if begins := _BEGINS.match(text):
            self._show(f"\n[{begins['step']}]")
        elif text.startswith("Streamed logs"):
            self._shows = True
        elif failed := _FAILED.match(text):
            self._show(f"[{failed['step']}] failed")

    def _take_step(self, line: str) -> None:
        if self._in_json:
            self._in_json = line != "}"
        elif line.startswith("[KFP Executor "):
            self._in_json = line.endswith("Got executor_input:")
        elif line.strip():
            self._show(line)

    def _show(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
