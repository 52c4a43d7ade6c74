"""Ten million rows through `generate` and `serialize` on Ray: time, and memory of each process.

    python benchmarks/large_table.py runs/adult --output FOLDER [--rows 10000000] [--workers 2]

The generator of a finished run writes the table; `serialize` then takes it in as any other. Both
are started as a Ray job starts them, `python -m components.entrypoint STAGE`, while this script
watches the processes: the driver, and the workers. A run that was stopped continues; then its times
are those of the rest.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

WORKER = re.compile(r"ray::|ShardActor")
HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--output", type=Path, required=True, help="folder for the table")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    workers = ["--set", f"runtime.num_workers={options.workers}"]
    table, corpus = options.output / "synthetic", options.output / "corpus"
    print("| stage | seconds | rows/s | driver, peak MiB | workers, peak MiB each |")
    print("|-|-|-|-|-|")
    generator = str(options.run / "generator")
    rows = ["--set", f"generation.num_rows={options.rows}"]
    watch("generate", [*rows, "--generator", generator, "--output", str(table), *workers], table)
    parts = ["--set", f"data.source={table}/part-*.parquet"]
    watch("serialize", [*parts, "--output", str(corpus), *workers], corpus)


def watch(stage: str, arguments: list[str], output: Path) -> None:
    """Run a stage, and print what it and its workers took."""
    command = [sys.executable, "-m", "components.entrypoint", stage, *arguments]
    started = time.monotonic()
    driver = subprocess.Popen(command)  # noqa: S603 - our own command
    peaks: dict[int, int] = {}
    own = 0
    while driver.poll() is None:
        time.sleep(0.5)
        own = max(own, high_water(driver.pid))
        for process in children(driver.pid):
            peaks[process] = max(peaks.get(process, 0), high_water(process))
    if driver.returncode:
        raise SystemExit(driver.returncode)
    seconds = time.monotonic() - started
    manifest = json.loads((output / "manifest.json").read_text())
    rows = sum(entry["rows"] or 0 for entry in manifest["files"])
    workers = ", ".join(f"{peak / 2**20:,.0f}" for peak in sorted(peaks.values(), reverse=True))
    print(
        f"| {stage} | {seconds:,.0f} | {rows / seconds:,.0f} | {own / 2**20:,.0f} | {workers} |",
        flush=True,
    )


def children(pid: int) -> list[int]:
    """The workers below a process: those of Ray that hold our actors."""
    found: list[int] = []
    try:
        for process in psutil.Process(pid).children(recursive=True):
            if WORKER.search(" ".join(process.cmdline())):
                found.append(process.pid)
    except psutil.Error:  # one that ends while it is looked at
        pass
    return found


def high_water(pid: int) -> int:
    """Largest resident memory of a process so far, in bytes."""
    try:
        found = HIGH_WATER.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
