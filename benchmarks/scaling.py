"""How the stages scale: one and two workers, in this process and on an embedded Ray.

    python benchmarks/scaling.py RUN [--rows 262144] [--tokens 400000]

RUN is the folder of a finished run. Every worker has one thread. The seconds of a stage are split
into what it costs to start and what a unit of work costs, from two sizes of the same work; the
projection to more workers follows from these, and from the write rate of the storage.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from difflm_core.artifacts import Corpus, GeneratorBundle, SyntheticData, VaeCheckpoint
from difflm_core.config import (
    CodecConfig,
    DataConfig,
    GenerateConfig,
    LatentsConfig,
    RuntimeConfig,
    SerializeConfig,
    VaeConfig,
)
from difflm_core.launchers import open_launcher
from difflm_core.parallel import Launcher
from difflm_core.stage import run_stage
from difflm_core.stages.extract_latents import STAGE as EXTRACT
from difflm_core.stages.generate import STAGE as GENERATE
from difflm_core.stages.serialize import STAGE as SERIALIZE
from difflm_core.stages.train_vae import STAGE as TRAIN

PLACES = (("local", 1), ("local", 2), ("ray", 1), ("ray", 2))
NOT_SPREAD = {("train-vae", "local", 2)}  # a group of workers needs Ray
# It is so fast that only a large table shows it beside the start of workers.
FILES, COPIES = 16, 8
PROJECTED_WORKERS = (8, 64, 512)
PROJECTED_ROWS = 100_000_000


@dataclass(frozen=True)
class Cost:
    """Seconds of a piece of work: `start + units * unit`."""

    start: float
    unit: float

    @classmethod
    def of(cls, small: tuple[int, float], large: tuple[int, float]) -> Cost:
        """From the seconds that two numbers of units took."""
        unit = (large[1] - small[1]) / (large[0] - small[0])
        return cls(small[1] - small[0] * unit, unit)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--rows", type=int, default=262_144, help="rows to generate")
    parser.add_argument("--tokens", type=int, default=400_000, help="tokens to train on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="difflm-scaling-") as folder:
        compare(options.run, Path(folder), options.rows, options.tokens)


def compare(run: str, folder: Path, rows: int, tokens: int) -> None:
    """Measure every stage in every place that it can run in, and print the tables."""
    corpora = Corpora(run, folder, rows)
    works: dict[str, tuple[Any, int, str]] = {
        "serialize": (Serialize(corpora, folder), FILES * COPIES * rows, "rows"),
        "generate": (Generate(run), rows, "rows"),
        "extract-latents": (Extract(run, folder, corpora), rows, "rows"),
        "train-vae": (Train(run), tokens, "tokens"),
    }
    print("| stage | where | workers | seconds to start | units/s after that | unit |")
    print("|-|-|-|-|-|-|")
    costs: dict[tuple[str, str, int], Cost] = {}
    for name, (work, size, unit) in works.items():
        for place, workers in PLACES:
            if (name, place, workers) in NOT_SPREAD:
                continue
            cost = measure(work, size, place, workers)
            costs[name, place, workers] = cost
            print(
                f"| {name} | {place} | {workers} | {cost.start:.1f} | {1 / cost.unit:,.0f} "
                f"| {unit} |",
                flush=True,
            )
    print(projection(costs["generate", "ray", 1], bytes_per_row(run), write_rate()))


def measure(work: Any, size: int, place: str, workers: int) -> Cost:
    """Time a quarter and the whole of some work."""
    runtime = RuntimeConfig(num_workers=workers, threads=1)
    with open_launcher(place, None, runtime) as launcher:
        work(launcher, runtime, size // 16)  # starts Ray, and loads what is loaded once
        times: list[tuple[int, float]] = []
        for wanted in (size // 4, size):
            if hasattr(work, "prepare"):
                work.prepare(wanted)
            start = time.perf_counter()
            done = work(launcher, runtime, wanted)
            times.append((done, time.perf_counter() - start))
    return Cost.of(*times)


@contextlib.contextmanager
def _output() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="difflm-scaling-") as folder:
        yield str(Path(folder) / "out")


class Generate:
    """Generates rows, in sixteen shards whatever their number."""

    def __init__(self, run: str) -> None:
        self.bundle = GeneratorBundle.open(f"{run}/generator")

    def __call__(self, launcher: Launcher, runtime: RuntimeConfig, rows: int) -> int:
        """Generate `rows` rows."""
        cfg = GenerateConfig(num_rows=rows, shard_rows=max(1024, rows // 16))
        with _output() as output:
            run_stage(GENERATE, cfg, {"generator": self.bundle}, output, launcher, runtime=runtime)
        return rows


class Corpora:
    """Corpora of some of sixteen files of synthetic rows, in as many shards."""

    def __init__(self, run: str, folder: Path, rows: int) -> None:
        self.rows_of_part = rows // 16
        self.parts = folder / "rows"
        cfg = GenerateConfig(num_rows=rows, shard_rows=self.rows_of_part)
        inputs = {"generator": GeneratorBundle.open(f"{run}/generator")}
        run_stage(GENERATE, cfg, inputs, str(self.parts), runtime=RuntimeConfig())

    def make(self, rows: int, output: str) -> Any:
        """A corpus of `rows` rows."""
        pattern = {1: "part-00000", 4: "part-0000[0-3]", 16: "part-*"}[rows // self.rows_of_part]
        data = DataConfig(source=str(self.parts / f"{pattern}.parquet"), test_fraction=0)
        cfg = SerializeConfig(data=data, codec=CodecConfig(shard_rows=self.rows_of_part))
        return run_stage(SERIALIZE, cfg, {}, output)


class Serialize:
    """Serializes some of sixteen files, each of which holds all the synthetic rows eight times."""

    def __init__(self, corpora: Corpora, folder: Path) -> None:
        self.files = folder / "files"
        self.files.mkdir()
        table = pq.read_table([str(path) for path in sorted(corpora.parts.glob("*.parquet"))])
        table = pa.concat_tables([table] * COPIES)
        self.rows_of_file = table.num_rows
        pq.write_table(table, self.files / "part-00.parquet", row_group_size=65_536)
        for index in range(1, FILES):
            (self.files / f"part-{index:02d}.parquet").hardlink_to(self.files / "part-00.parquet")

    def __call__(self, launcher: Launcher, runtime: RuntimeConfig, rows: int) -> int:
        """Serialize `rows` rows."""
        pattern = {1: "part-00", 4: "part-0[0-3]", 16: "part-*"}[rows // self.rows_of_file]
        data = DataConfig(source=str(self.files / f"{pattern}.parquet"), test_fraction=0)
        with _output() as output:
            run_stage(SERIALIZE, SerializeConfig(data=data), {}, output, launcher, runtime=runtime)
        return rows


class Extract:
    """Encodes corpora of sixteen shards or fewer."""

    def __init__(self, run: str, folder: Path, corpora: Corpora) -> None:
        self.vae = VaeCheckpoint.open(f"{run}/vae")
        self.folder = folder
        self.corpora = corpora
        self.made: dict[int, Any] = {}

    def __call__(self, launcher: Launcher, runtime: RuntimeConfig, rows: int) -> int:
        """Encode `rows` rows."""
        self.prepare(rows)
        inputs = {"corpus": self.made[rows], "vae": self.vae}
        with _output() as output:
            run_stage(EXTRACT, LatentsConfig(), inputs, output, launcher, runtime=runtime)
        return rows

    def prepare(self, rows: int) -> None:
        """Make the corpus of `rows` rows, once; not part of what is measured."""
        if rows not in self.made:
            self.made[rows] = self.corpora.make(rows, str(self.folder / f"corpus-{rows}"))


class Train:
    """Trains the text-VAE for some tokens."""

    def __init__(self, run: str) -> None:
        self.corpus = Corpus.open(f"{run}/corpus")

    def __call__(self, launcher: Launcher, runtime: RuntimeConfig, tokens: int) -> int:
        """Train on `tokens` tokens."""
        cfg = VaeConfig(max_tokens=tokens, patience=0, evaluate_every_steps=10**6)
        with _output() as output:
            run_stage(TRAIN, cfg, {"corpus": self.corpus}, output, launcher, runtime=runtime)
        return tokens


def bytes_per_row(run: str) -> float:
    """Bytes of a synthetic row on disk."""
    made = SyntheticData.open(f"{run}/synthetic")
    parts = made.files("", ".parquet")
    return sum(part.bytes for part in parts) / sum(part.rows or 0 for part in parts)


def projection(cost: Cost, row_bytes: float, disk: float) -> str:
    """Seconds that more workers would need for a large table, as Markdown."""
    shard_rows = GenerateConfig().shard_rows
    shards = math.ceil(PROJECTED_ROWS / shard_rows)
    lines = [
        "",
        f"Projection for {PROJECTED_ROWS:,} rows ({shards:,} shards of {shard_rows:,}, "
        f"{row_bytes:.1f} bytes a row):",
        "",
        "| workers | computing s | writing s, one store | rows/s |",
        "|-|-|-|-|",
    ]
    for workers in PROJECTED_WORKERS:
        computing = cost.start + math.ceil(shards / workers) * shard_rows * cost.unit
        writing = PROJECTED_ROWS * row_bytes / disk
        rate = PROJECTED_ROWS / max(computing, writing)
        lines.append(f"| {workers} | {computing:,.0f} | {writing:,.0f} | {rate:,.0f} |")
    lines += [
        "",
        "It assumes workers of one thread as fast as this machine's, a shard at a time each, a "
        f"start as long as here, and one store that takes {disk / 2**20:,.0f} MiB/s from all "
        "together, as this machine's disk does; object stores take more with every writer.",
    ]
    return "\n".join(lines)


def write_rate(num_bytes: int = 256 * 2**20) -> float:
    """Bytes per second that this machine's disk takes, synchronised."""
    with tempfile.NamedTemporaryFile() as file:
        start = time.perf_counter()
        file.write(b"\\0" * num_bytes)
        file.flush()
        os.fsync(file.fileno())
        return num_bytes / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
