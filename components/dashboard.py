"""What a step shows in the Kubeflow dashboard: its artifact, figures and a page."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from difflm_core import storage
from difflm_core.artifacts import Artifact
from difflm_core.config_file import flatten
from difflm_core.progress import format_seconds


class Shown(Protocol):
    """An output artifact of Kubeflow: where it is, and what is said of it."""

    uri: str
    path: str
    metadata: dict[str, Any]


class Metrics(Shown, Protocol):
    """Kubeflow's metrics: a list of numbers by name."""

    def log_metric(self, metric: str, value: float) -> None:
        """Add a number."""
        ...


def show_artifact(artifact: Artifact, shown: Shown, metrics: Metrics, page: Shown) -> None:
    """Register an artifact where it lies, and show its figures and its page.

    Kubeflow would copy an artifact into each pod that takes it; so only its URI is registered, and
    steps hand on URIs.
    """
    manifest = artifact.manifest
    shown.uri = artifact.uri
    shown.metadata.update(
        kind=manifest.kind,
        stage=manifest.stage,
        fingerprint=manifest.fingerprint,
        content_hash=manifest.content_hash,
    )
    show_figures(figures(artifact), metrics)
    reports = artifact.files(suffix=".html")
    text = storage.read_text(artifact.path(reports[0].path)) if reports else stage_page(artifact)
    write_page(page, text)


def figures(artifact: Artifact) -> dict[str, float]:
    """Numbers of the manifest that a person looks at."""
    done = artifact.manifest.provenance
    values = {
        **flatten(artifact.manifest.summary),
        "duration_seconds": done.duration_seconds,
        "cpu_hours": done.cpu_hours,
        "gpu_hours": done.gpu_hours,
    }
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and v == v}
    return {name: float(value) for name, value in numbers.items()}


def show_figures(values: Mapping[str, float], metrics: Metrics) -> None:
    """Show numbers; in a file as well, without which Kubeflow takes the output for missing."""
    for name, value in values.items():
        metrics.log_metric(name, value)
    lines = "".join(f"{name}={value}\n" for name, value in values.items())
    write_page(metrics, lines)


def write_page(shown: Shown, text: str) -> None:
    """Write what the dashboard shows."""
    path = Path(shown.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def stage_page(artifact: Artifact) -> str:
    """A page about what a stage has made, from its manifest."""
    manifest = artifact.manifest
    rows = {
        "Where": artifact.uri,
        "Stage": f"{manifest.stage}, version {manifest.stage_version}",
        "Time": format_seconds(manifest.provenance.duration_seconds),
        "Files": f"{len(manifest.files):,}, {sum(f.bytes for f in manifest.files) / 1e6:,.1f} MB",
        "Made from": ", ".join(entry.uri for entry in manifest.inputs.values()) or "the source",
        **{name: _number(value) for name, value in flatten(manifest.summary).items()},
    }
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return _PAGE.format(kind=html.escape(manifest.kind), cells=cells)


def _number(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{kind}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1c2733; }}
th {{ text-align: left; padding-right: 2rem; font-weight: 600; color: #52606d; }}
th, td {{ padding-top: .25rem; padding-bottom: .25rem; vertical-align: top; }}
</style>
<h1>{kind}</h1>
<table>{cells}</table>
</html>
"""
