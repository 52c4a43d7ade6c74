"""Runs of small tables through the command line."""

from pathlib import Path

import pytest

from tests.e2e.small_runs import SMALL_ARGUMENTS


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
