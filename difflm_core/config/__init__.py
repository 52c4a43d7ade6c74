"""The configuration of a run: one typed model behind YAML, `--set` and Python.

Precedence is defaults < YAML file < overrides (`section.key=value`). Every field has a
description with its unit; `docs/config.md` is generated from them. Which stage reads which
section is said by the type of the stage's `cfg` parameter (`RunConfig.section`).
"""

from difflm_core.config.data import CodecConfig, DataConfig, SerializeConfig
from difflm_core.config.model import DiffusionConfig, LatentsConfig, VaeConfig
from difflm_core.config.output import EvaluateConfig, GenerateConfig
from difflm_core.config.run import RunConfig, RuntimeConfig
from difflm_core.config.section import NOT_IN_FINGERPRINT, Section

__all__ = [
    "NOT_IN_FINGERPRINT",
    "CodecConfig",
    "DataConfig",
    "DiffusionConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "LatentsConfig",
    "RunConfig",
    "RuntimeConfig",
    "Section",
    "SerializeConfig",
    "VaeConfig",
]
