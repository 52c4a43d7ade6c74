"""Speed and memory of generation, end to end: noise to a Parquet file.

    python benchmarks/generation.py MODEL --rows 10000 1000000

Each size runs in a process of its own, which prints its rate and its peak memory; the parts of a
batch (latents, decoding, codec) are timed on one thread beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEBIBYTE = 2**20


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a model or of a run")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.model, options.rows[0])))
        return
    print("| rows | seconds | rows/s | loading s | peak memory MiB |")
    print("|-|-|-|-|-|")
    for rows in options.rows:
        command = [sys.executable, __file__, options.model, "--rows", str(rows), "--child"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        r = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {rows:,} | {r['seconds']:.1f} | {rows / r['seconds']:,.0f} | "
            f"{r['loading']:.1f} | {r['peak'] / MEBIBYTE:,.0f} |",
            flush=True,
        )
    print()
    for part, milliseconds in measure_parts(options.model).items():
        print(f"{part}: {milliseconds:.3f} ms per 1,000 rows and thread")


def measure(model: str, rows: int) -> dict[str, float]:
    """Seconds, loading seconds and peak bytes of writing `rows` records."""
    start = time.perf_counter()
    from difflm_core.api import DiffLM

    loaded = DiffLM.from_pretrained(model)
    ready = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        loaded.sample_to(Path(folder) / "out.parquet", rows, seed=1)
    seconds = time.perf_counter() - ready
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "loading": ready - start, "peak": peak}


def measure_parts(model: str, rows: int = 1024, repeats: int = 8) -> dict[str, float]:
    """Milliseconds per thousand rows of each part of a batch, on one thread."""
    import numpy as np
    import torch

    from difflm_core.api import DiffLM
    from difflm_core.generation.decode import TokenDraw, decode_tokens

    torch.set_num_threads(1)
    generator = DiffLM.from_pretrained(model)._generator
    random = torch.Generator().manual_seed(0)
    latents = generator.latents

    def sample_latents() -> torch.Tensor:
        return latents.latents(latents.noise(rows, seed=0, first=0))

    def decode() -> np.ndarray:
        return decode_tokens(generator.vae.decoder, z_BD, [TokenDraw(rows, random)])[0].ids_RT

    z_BD = sample_latents()
    ids_BT = decode()
    residuals = np.random.default_rng(0).random((rows, generator.codec.num_residuals))
    parts = {
        "latent diffusion": sample_latents,
        "language model": decode,
        "codec": lambda: generator.codec.decode(ids_BT, residuals),
    }
    times: dict[str, float] = {}
    for name, run in parts.items():
        run()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        times[name] = (time.perf_counter() - start) / repeats / rows * 1e6
    return times


if __name__ == "__main__":
    main()
