"""Fixtures for every test."""

from __future__ import annotations

import logging
import os
import sys

import pytest

# Two threads at most, and no network: a test must give the same result on any machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray reads both at its import, which some tests do early. Without the first, an embedded Ray is
# refused: no port beyond the loopback.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    """Console output does not depend on the terminal the tests run in."""
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "GITHUB_ACTIONS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def difflm(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty directory; gives exit code, stdout and stderr."""
    from difflm_core.cli import main
    from difflm_core.cli.console import SETTINGS

    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("difflm")
    before = (logger.handlers[:], logger.level, logger.propagate)

    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["difflm", *argv])
        with pytest.raises(SystemExit) as caught:
            main()
        output = capsys.readouterr()
        return caught.value.code, output.out, output.err

    yield call
    logger.handlers[:], logger.level, logger.propagate = before
    logging.getLogger("difflm.stage").setLevel(logging.NOTSET)
    SETTINGS.quiet = False


@pytest.fixture(scope="session")
def people_run(tmp_path_factory):
    """Directory of a finished run on a small table; do not write to it."""
    from difflm_core.stages.pipeline import run_pipeline
    from tests.people import people_config

    folder = tmp_path_factory.mktemp("people")
    config = people_config(folder)
    run_pipeline(config)
    return folder / "run"
