"""A small table with a column of every kind, and settings that learn it in seconds."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from difflm_core.config_file import build_config
from difflm_core.stage import run_stage

KINDS = {
    "person": "identifier",
    "age": "integer",
    "job": "categorical",
    "pay": "float",
    "member": "boolean",
    "joined": "datetime",
    "note": "text",
    "label": "boolean",
}

# Every stage has several shards or checkpoints, so that it can be stopped in between.
SETTINGS = {
    "codec": {"shard_rows": 80, "text_vocab_size": 300},
    "vae": {
        "width": 32,
        "num_layers": 1,
        "encoder_layers": 1,
        "num_heads": 2,
        "latent_dim": 4,
        "batch_rows": 64,
        "max_tokens": 12_000,
        "evaluate_every_steps": 4,
        "checkpoint_every_steps": 3,
    },
    "diffusion": {
        "width": 32,
        "num_blocks": 1,
        "num_steps": 12,
        "batch_rows": 64,
        "evaluate_every_steps": 5,
        "checkpoint_every_steps": 4,
        "sampler_steps": 3,
    },
    # Hardly trained, so that most of the free text comes out as invalid UTF-8.
    "generation": {"num_rows": 250, "batch_rows": 50, "shard_rows": 100, "max_attempts": 300},
    "evaluation": {"max_rows": 500},
}

# Settings of the text-VAE with which a group of workers gives the losses of one, by ZeRO or not.
SAME_IN_GROUPS = {
    "optimizer": "adamw",
    "dropout": 0.0,
    "max_tokens": 30_000,
    "warmup_steps": 3,
    "free_nats": 0.02,
    "patience": 0,
}


def make_people(num_rows=300, seed=0):
    """The table as a DataFrame."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, num_rows)
    start = pd.Timestamp("2020-01-01")
    frame = pd.DataFrame(
        {
            "person": [f"P-{row:05d}" for row in range(1, num_rows + 1)],
            "age": age,
            "job": rng.choice(["clerk", "cook", "pilot", "nurse"], num_rows),
            "pay": np.round(age * 10 + rng.normal(0, 50, num_rows), 2),
            "member": rng.random(num_rows) < 0.4,
            "joined": start + pd.to_timedelta(rng.integers(0, 10**6, num_rows), unit="min"),
            "note": [f"{rng.choice(['late', 'über'])} {n}" for n in rng.integers(0, 900, num_rows)],
            "label": np.where(age + rng.normal(0, 10, num_rows) > 45, "yes", "no"),
        }
    )
    frame.loc[::7, "pay"] = np.nan
    frame.loc[::11, "job"] = None
    return frame


def people_config(folder, output="run", **changes):
    """Write the table and a run.yaml under `folder`; give the configuration.

    Args:
        folder: Where the files go.
        output: Name of the run directory in it.
        **changes: Sections with settings that differ, or `seed`.
    """
    source = Path(folder) / "people.csv"
    if not source.exists():
        make_people().to_csv(source, index=False)
    values = {
        "data": {"source": str(source), "target": "label", "test_fraction": 0.2},
        **SETTINGS,
        "output": str(Path(folder) / output),
    }
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    # JSON is YAML.
    (Path(folder) / "run.yaml").write_text(json.dumps(values))
    return build_config(values)


def run_from(run, stage, config, output, launcher=None):
    """Run a stage of a configuration on what the finished run has made."""
    return run_stage(
        stage,
        config.section(stage.config_type),
        {name: str(Path(run) / name) for name in stage.inputs},
        str(output),
        launcher,
        seed=config.seed,
        runtime=config.runtime,
    )


def content_hashes(run):
    """Content hash of each artifact of a run directory."""
    return {
        path.parent.name: json.loads(path.read_text())["content_hash"]
        for path in sorted(Path(run).glob("*/manifest.json"))
    }
