"""What both training stages tell the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from difflm_core.artifacts import WORK_FOLDER, ArtifactWriter
from difflm_core.config import DiffusionConfig, VaeConfig

if TYPE_CHECKING:
    from difflm_core.training import LoopOptions


def loop_options(cfg: VaeConfig | DiffusionConfig) -> LoopOptions:
    """The settings of `cfg` that are the loop's; others stay at its defaults."""
    import dataclasses

    from difflm_core.training import LoopOptions

    names = {field.name for field in dataclasses.fields(LoopOptions)}
    return LoopOptions(**cfg.model_dump(include=names))


def checkpoint_file(output: ArtifactWriter) -> str:
    """Where the loop keeps what it needs to continue."""
    return output.path(WORK_FOLDER, "training.safetensors")
