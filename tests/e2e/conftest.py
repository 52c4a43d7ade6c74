"""The command line, called in an empty directory."""

import logging
import sys
from pathlib import Path

import pytest

from difflm_core.cli import main
from difflm_core.cli.console import SETTINGS
from tests.e2e.small_runs import SMALL_ARGUMENTS


@pytest.fixture(autouse=True)
def _logging_as_before():
    logger = logging.getLogger("difflm")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    logging.getLogger("difflm.stage").setLevel(logging.NOTSET)
    SETTINGS.quiet = False


@pytest.fixture
def difflm(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty directory; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["difflm", *argv])
        with pytest.raises(SystemExit) as caught:
            main()
        output = capsys.readouterr()
        return caught.value.code, output.out, output.err

    return call


@pytest.fixture
def run(difflm, tmp_path):
    """Write a table and a run.yaml, and run it: `run(table, "--set", ...)`."""

    def call(table, *arguments, name="table.csv"):
        if isinstance(table, bytes | str):
            Path(name).write_bytes(table.encode() if isinstance(table, str) else table)
        elif name.endswith(".parquet"):
            table.to_parquet(name)
        elif table is not None:
            table.to_csv(name, index=False)
        Path("run.yaml").write_text(f"data: {{source: {name}}}\noutput: out\n")
        return difflm("--quiet", "run", "run.yaml", *SMALL_ARGUMENTS, *arguments)

    return call
