"""Speed and memory of reading data: they must not depend on the number of rows.

    python benchmarks/data_memory.py [--rows 10000 1000000]

For each size a CSV file of mixed columns is generated, then a fresh process infers its schema,
converts it to canonical types and writes it again. Another one runs the stage
`serialize` on it: schema, splits, shards, codec. The peak memory of each process (less what the
imports take), and the cells per second of each step, are printed as a table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")


def generate(path: Path, num_rows: int) -> None:
    """Write a CSV file with one column of each kind, some of high cardinality."""
    import numpy as np

    random = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("id,age,income,city,member,joined,seen,comment,code,score,empty,level\n")
        for start in range(0, num_rows, 50_000):
            size = min(50_000, num_rows - start)
            ages, cities = random.integers(18, 90, size), random.integers(0, 300, size)
            incomes, scores = random.lognormal(10, 1, size), random.random(size)
            days, codes = random.integers(1, 29, size), random.integers(0, 10**9, size)
            for i in range(size):
                row = start + i + 1
                file.write(
                    f"{row},{ages[i]},{incomes[i]:.2f},city {cities[i]},"
                    f"{'yes' if ages[i] % 2 else 'no'},{days[i]:02d}/0{days[i] % 9 + 1}/2023,"
                    f"2023-01-{days[i]:02d} 10:{days[i]:02d}:{codes[i] % 60:02d},"
                    f"visited the shop number {codes[i]} and left happy,"
                    f"C{codes[i]:09d}X,{scores[i]:.6f},{'NA' if i % 7 else ages[i]},"
                    f"{'low' if scores[i] < 0.5 else 'high'}\n"
                )


def measure(path: Path) -> dict[str, float]:
    """Run the steps on one file; meant for a process of its own."""
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401

    from difflm_core.data.inference import infer_schema
    from difflm_core.data.readers import open_source
    from difflm_core.data.writers import RecordWriter

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = open_source(path)
    started = time.perf_counter()
    schema = infer_schema(source)
    inferred = time.perf_counter()
    cells = sum(batch.num_rows for batch in source.canonical_batches(schema)) * len(schema.columns)
    converted = time.perf_counter()
    with RecordWriter(path.with_suffix(".parquet"), schema) as writer:
        for batch in source.canonical_batches(schema):
            writer.write(batch)
    written = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "infer": cells / (inferred - started) / 1e6,
        "convert": cells / (converted - inferred) / 1e6,
        "write": cells / (written - converted) / 1e6,
        "memory": (peak - before) / 1024,
    }


def measure_stage(path: Path) -> dict[str, float]:
    """Run the stage `serialize` on one file; meant for a process of its own."""
    from difflm_core.config import CodecConfig, DataConfig, SerializeConfig
    from difflm_core.stage import run_stage
    from difflm_core.stages.serialize import STAGE

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    config = SerializeConfig(data=DataConfig(source=str(path)), codec=CodecConfig())
    run_stage(STAGE, config, {}, str(path.parent / "corpus"))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "memory": (peak - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure-stage", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    if arguments.measure_stage:
        print(json.dumps(measure_stage(arguments.measure_stage)))
        return
    print(
        "| rows | file MB | infer | convert | convert + write | memory MiB "
        "| serialize s | serialize, memory MiB |"
    )
    print("|-|-|-|-|-|-|-|-|")
    for num_rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            generate(path, num_rows)
            found, stage = (_run(flag, path) for flag in ("--measure", "--measure-stage"))
            size = path.stat().st_size / 1e6
            print(
                f"| {num_rows:,} | {size:.1f} | {found['infer']:.1f} | {found['convert']:.1f} | "
                f"{found['write']:.1f} | {found['memory']:.0f} | "
                f"{stage['seconds']:.1f} | {stage['memory']:.0f} |",
                flush=True,
            )
    print("\nSpeeds in million cells per second, one thread.")


def _run(flag: str, path: Path) -> dict[str, float]:
    """Measure in a process of its own."""
    root = str(Path(__file__).parent.parent)
    result = subprocess.run(  # noqa: S603 - this very file
        [sys.executable, __file__, flag, str(path)],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    return dict(json.loads(result.stdout))


if __name__ == "__main__":
    main()
