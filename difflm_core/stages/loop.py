"""What both training stages tell the training loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from difflm_core import storage
from difflm_core.artifacts import WORK_FOLDER
from difflm_core.config import DiffusionConfig, VaeConfig
from difflm_core.stage import StageContext

if TYPE_CHECKING:
    from difflm_core.training import LoopOptions


def loop_options(cfg: VaeConfig | DiffusionConfig) -> LoopOptions:
    """The settings of `cfg` that are the loop's; others stay at its defaults."""
    import dataclasses

    from difflm_core.training import LoopOptions

    names = {field.name for field in dataclasses.fields(LoopOptions)}
    return LoopOptions(**cfg.model_dump(include=names))


def checkpoint_file(ctx: StageContext) -> Path | None:
    """Where the loop keeps what it needs to continue; None on remote storage."""
    uri = ctx.output.path(WORK_FOLDER, "training.safetensors")
    return storage.local_path(uri) if storage.is_local(uri) else None
