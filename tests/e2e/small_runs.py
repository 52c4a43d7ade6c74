"""A run that takes seconds: its settings, its table, what it leaves."""

from pathlib import Path

import numpy as np
import pandas as pd

from tests.people import SETTINGS as SMALL

SMALL_ARGUMENTS = [
    argument
    for section in ("vae", "diffusion")
    for key, value in {**SMALL[section], "max_tokens": 2000, "num_steps": 4}.items()
    if key in SMALL[section]
    for argument in ("--set", f"{section}.{key}={value}")
]


def complete(folder="."):
    """Folders that look complete."""
    return sorted(path.parent.name for path in Path(folder).rglob("manifest.json"))


def plain(num_rows=120):
    """A table with nothing special."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"a": rng.integers(0, 50, num_rows), "b": rng.choice(list("xyz"), num_rows)}
    )
