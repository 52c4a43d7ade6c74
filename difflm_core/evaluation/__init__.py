"""How good and how private synthetic data is.

Inputs are canonical Arrow tables and a schema; no model is ever loaded here. The names below are
imported on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from difflm_core.evaluation.protocol import evaluate
    from difflm_core.evaluation.report import write_report
    from difflm_core.evaluation.results import Evaluation

__all__ = ["Evaluation", "evaluate", "write_report"]

_HOMES = {
    "evaluate": "difflm_core.evaluation.protocol",
    "write_report": "difflm_core.evaluation.report",
    "Evaluation": "difflm_core.evaluation.results",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
