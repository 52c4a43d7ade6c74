"""Values of a pipeline's parameters, as they are given on a command line."""

from __future__ import annotations

import difflib
from typing import Any

import yaml

from difflm_core.errors import ConfigError
from pipelines.compile import load_pipeline

_TYPES: dict[str, Any] = {
    "String": str,
    "Integer": int,
    "Float": (int, float),
    "Boolean": bool,
    "List": list,
}


def parse_arguments(name: str, texts: list[str]) -> dict[str, Any]:
    """Read `name=value` texts as values of a pipeline's parameters.

    Raises:
        ConfigError: a name is unknown, or a value has another type.
    """
    inputs = load_pipeline(name).component_spec.inputs
    values: dict[str, Any] = {}
    for text in texts:
        key, separator, raw = text.partition("=")
        if not separator:
            raise ConfigError(f"--param {text}: expected name=value, such as --param rows=1000.")
        if key not in inputs:
            near = difflib.get_close_matches(key, inputs, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"--param {key}: the pipeline {name} has no such parameter; expected one of "
                f"{', '.join(inputs)}.{hint}"
            )
        kind = str(inputs[key].type)
        value = raw if kind == "String" else yaml.safe_load(raw)
        if not isinstance(value, _TYPES[kind]) or (kind != "Boolean" and isinstance(value, bool)):
            raise ConfigError(f"--param {text}: expected a value of type {kind}, found {raw!r}.")
        values[key] = float(value) if kind == "Float" else value
    return values
