"""Compile the pipelines to what the Kubeflow dashboard takes."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

COMPILED = Path(__file__).with_name("compiled")
# One module each, with a pipeline of the same name.
NAMES = ("difflm", "sweep")


def load_pipeline(name: str) -> Any:
    """Import a pipeline by its name."""
    return getattr(importlib.import_module(f"pipelines.{name}"), name)


def compile_text(name: str) -> str:
    """The YAML of a pipeline; the same for the same code and version of kfp."""
    from kfp import compiler

    with tempfile.TemporaryDirectory(prefix="difflm-") as folder:
        path = Path(folder) / f"{name}.yaml"
        compiler.Compiler().compile(load_pipeline(name), str(path))
        return path.read_text("utf-8")


def compile_all(folder: Path = COMPILED) -> list[Path]:
    """Write the YAML of each pipeline into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name in NAMES:
        path = folder / f"{name}.yaml"
        path.write_text(compile_text(name), "utf-8")
        paths.append(path)
    return paths
