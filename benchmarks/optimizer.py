"""Muon against AdamW for the hidden matrices: the language model alone, at equal steps.

    python benchmarks/optimizer.py TABLE.parquet --steps 600

Prints validation likelihood (nats per record) and seconds of both, from the same weights, batches
and learning-rate schedule.
"""

from __future__ import annotations

import argparse
import time

import pyarrow.parquet as pq

from difflm_core.codec.records import RecordCodec
from difflm_core.config import VaeConfig
from difflm_core.data.canonical import to_canonical
from difflm_core.data.inference import infer_schema
from difflm_core.engines import OptimizerOptions, TorchEngine
from difflm_core.stages.untrained import build_vae
from difflm_core.training import LoopOptions, Phase, TrainingLoop
from difflm_core.vae.batches import RecordShard, TrainingBatches, fixed_ids
from difflm_core.vae.training import hidden_matrices, score_language_model

VALID_ROWS = 3000


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="a Parquet file")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    table = pq.read_table(options.table)
    schema = infer_schema(table)
    records = to_canonical(table, schema).combine_chunks()
    valid, train = records.slice(0, VALID_ROWS), records.slice(VALID_ROWS)
    codec = RecordCodec.fit(schema, train)
    config = VaeConfig(dropout=0.1)
    valid_ids = fixed_ids(
        [RecordShard(valid.num_rows, lambda: valid)],
        codec,
        max_rows=VALID_ROWS,
        seed=0,
        purpose="valid",
    )
    print("| optimizer of the matrices | steps | validation nats | seconds |")
    print("|-|-|-|-|")
    for name in ("AdamW", "Muon"):
        batches = TrainingBatches(
            [RecordShard(train.num_rows, lambda: train)],
            codec,
            batch_rows=config.batch_rows,
            seed=0,
        )
        vae = build_vae(config, codec, seed=0, num_rows=train.num_rows)
        optimizer = OptimizerOptions(
            config.lr,
            config.matrix_lr,
            config.weight_decay,
            matrices=hidden_matrices(vae) if name == "Muon" else frozenset(),
        )
        engine = TorchEngine(vae, optimizer)
        half = options.steps // 2
        loop = TrainingLoop(
            engine,
            [Phase("stable", half), Phase("decay", options.steps - half, decays=True)],
            LoopOptions(evaluate_every_steps=options.steps),
            seed=0,
        )
        start = time.perf_counter()
        loop.run(
            lambda step, _: [(engine(batches.batch(step), None)[0].mean(), {})],  # noqa: B023
            lambda _: (None, {}),
            description=name,
        )
        seconds = time.perf_counter() - start
        score = score_language_model(engine, valid_ids)
        print(f"| {name} | {options.steps} | {score:.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
