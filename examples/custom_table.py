"""Learn a DataFrame, make new rows, save the model and load it again.

    python examples/custom_table.py [--tokens 400000] [--steps 400] [--output model/]

The table ships with scikit-learn: 442 diabetes patients, ten measurements, and how far the disease
went a year later. Nothing is downloaded. Small settings keep the example under a minute; leave
`config` out for the defaults.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd
from sklearn.datasets import load_diabetes

from difflm_core.api import DiffLM


def main() -> None:
    """Fit, sample, save, load."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=400_000, help="tokens read in training")
    parser.add_argument("--steps", type=int, default=400, help="training steps of the diffusion")
    parser.add_argument("--output", type=Path, help="new folder that keeps the model")
    options = parser.parse_args()

    real = load_diabetes(as_frame=True, scaled=False).frame
    real["sex"] = real["sex"].map({1.0: "A", 2.0: "B"})

    # A small table: a narrow model, and small batches, so that an epoch has more than one step.
    config = {
        "vae": {"batch_rows": 64, "max_tokens": options.tokens, "width": 64},
        "diffusion": {"num_steps": options.steps, "batch_rows": 256},
    }
    model = DiffLM.fit(real, target="target", seed=1, config=config)

    synthetic = model.sample(1000, seed=7)
    print(synthetic.head().to_string(index=False))
    means = pd.DataFrame(
        {"real": real.mean(numeric_only=True), "synthetic": synthetic.mean(numeric_only=True)}
    )
    print("\nMeans\n" + means.round(2).to_string())

    with tempfile.TemporaryDirectory() as folder:
        path = options.output or Path(folder) / "model"
        model.save_pretrained(path)
        again = DiffLM.from_pretrained(path)
        same = again.sample(1000, seed=7).equals(synthetic)
    print(f"\nThe loaded model makes the same rows: {same}")


if __name__ == "__main__":
    main()
