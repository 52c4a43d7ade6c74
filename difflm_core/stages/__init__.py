"""The stages of the pipeline, in order.

Importing this package loads no torch, and not even the stages: `load_stages` does, and their
modules import what is heavy inside their functions.
"""

from __future__ import annotations

import importlib
from functools import cache

from difflm_core.stage import Stage

# One module each, with a `STAGE`; the order is that of the pipeline.
STAGE_MODULES = (
    "serialize",
    "train_vae",
    "extract_latents",
    "train_diffusion",
    "generate",
    "evaluate",
)


@cache
def load_stages() -> tuple[Stage, ...]:
    """Load the stages, in the order of the pipeline."""
    return tuple(importlib.import_module(f"{__name__}.{module}").STAGE for module in STAGE_MODULES)
