"""Write an evaluation as one HTML file, as JSON and as Markdown.

The HTML needs nothing else: no script, font or image from outside. No row of either table is in
any of the files; category names and aggregates are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from difflm_core.evaluation import plots
from difflm_core.evaluation.results import (
    ColumnDiversity,
    ColumnFidelity,
    ColumnValidity,
    Diversity,
    Evaluation,
    Fidelity,
    NotComputed,
)
from difflm_core.evaluation.verdict import WORDS

HTML_NAME, JSON_NAME, MARKDOWN_NAME = "report.html", "report.json", "report.md"
MAX_PLOTS = 60
NUM_WORST_PAIRS = 12


def write_report(
    evaluation: Evaluation, directory: Path | str, *, title: str = "Synthetic data report"
) -> list[Path]:
    """Write report.html, report.json and report.md into a directory and return their paths."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        HTML_NAME: render_html(evaluation, title=title),
        JSON_NAME: json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False, allow_nan=False),
        MARKDOWN_NAME: render_markdown(evaluation, title=title),
    }
    paths: list[Path] = []
    for name, text in contents.items():
        path = folder / name
        path.write_text(text + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def render_html(evaluation: Evaluation, *, title: str) -> str:
    """The self-contained page."""
    environment = Environment(
        loader=PackageLoader("difflm_core.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["figure"] = figure
    environment.filters["computed"] = is_computed
    return environment.get_template("report.html.j2").render(
        e=evaluation,
        title=title,
        words=WORDS,
        columns=column_rows(evaluation),
        worst_pairs=worst_pairs(evaluation),
        plots=_plots(evaluation),
        num_plots=MAX_PLOTS,
    )


def is_computed(part: object) -> bool:
    """Whether a part of the evaluation is a result rather than a reason."""
    return not isinstance(part, NotComputed)


def percent(value: float | None, digits: int = 2) -> str:
    """A share in [0, 1] as percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def figure(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits; a dash for None or NaN."""
    return "–" if value is None or value != value else f"{value:,.{digits}f}"


def worst_pairs(evaluation: Evaluation) -> list[Any]:
    """The pairs with the largest trend error."""
    if not isinstance(evaluation.fidelity, Fidelity):
        return []
    known = [pair for pair in evaluation.fidelity.pairs if pair.trend_error is not None]
    return sorted(known, key=lambda pair: -(pair.trend_error or 0.0))[:NUM_WORST_PAIRS]


def column_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row per column of the schema for the table, worst shape error first."""
    fidelity: dict[str, ColumnFidelity] = {}
    if isinstance(evaluation.fidelity, Fidelity):
        fidelity = {column.name: column for column in evaluation.fidelity.columns}
    diversity: dict[str, ColumnDiversity] = {}
    if isinstance(evaluation.diversity, Diversity):
        diversity = {column.name: column for column in evaluation.diversity.columns}
    validity = {column.name: column for column in evaluation.validity.columns}
    rows: list[dict[str, Any]] = []
    for column in evaluation.dataset.columns:
        shape, kept = fidelity.get(column.name), diversity.get(column.name)
        coverage = None
        if kept is not None:
            coverage = kept.coverage if kept.coverage is not None else kept.range_coverage
        rows.append(
            {
                "name": column.name,
                "kind": column.kind,
                "shape": shape.shape_error if shape else None,
                "floor": shape.holdout_shape_error if shape else None,
                "missing_real": shape.missing_rate_real if shape else None,
                "missing_made": shape.missing_rate_synthetic if shape else None,
                "coverage": coverage,
                "rare": kept.rare_coverage if kept else None,
                "invalid": _num_invalid(validity[column.name]),
                "reason": shape.reason if shape else None,
            }
        )
    return sorted(rows, key=lambda row: -(row["shape"] if row["shape"] is not None else -1.0))


def _num_invalid(column: ColumnValidity) -> int:
    return (
        column.num_wrong_type
        + column.num_missing_not_allowed
        + column.num_out_of_range
        + column.num_unseen_category
        + column.num_bad_pattern
        + column.num_duplicate_identifier
    )


def _plots(evaluation: Evaluation) -> dict[str, Any]:
    """All plots as safe markup (every name in them is escaped where it is drawn)."""
    figures = evaluation.figures
    errors = {row["name"]: row["shape"] or 0.0 for row in column_rows(evaluation)}
    ordered = sorted(figures.distributions, key=lambda item: -errors.get(item.name, 0.0))
    found: dict[str, Any] = {
        "distributions": [
            (item.name, errors.get(item.name), Markup(plots.histogram(item)))  # noqa: S704
            for item in ordered[:MAX_PLOTS]
        ],
        "matrices": [],
        "roc": None,
        "distances": None,
        "importances": None,
        "densities": None,
        "explained": None,
        "nearest": None,
    }
    shown = evaluation.document_figures
    if shown is not None and shown.nearest_edges is not None:
        drawn = plots.similarities(shown.nearest_edges, shown.nearest)
        found["nearest"] = Markup(drawn)  # noqa: S704
    real, made = figures.association_real, figures.association_synthetic
    if real is not None and made is not None:
        names = figures.association_names
        found["matrices"] = [
            ("Real", Markup(plots.matrix(names, real, diverging=False))),  # noqa: S704
            ("Synthetic", Markup(plots.matrix(names, made, diverging=False))),  # noqa: S704
            ("Difference", Markup(plots.matrix(names, made - real, diverging=True))),  # noqa: S704
        ]
    if figures.roc_curves:
        found["roc"] = Markup(plots.roc(figures.roc_curves))  # noqa: S704
    if figures.dcr_edges is not None:
        found["distances"] = Markup(plots.distances(figures))  # noqa: S704
    if not isinstance(evaluation.detection, NotComputed):
        drawn = plots.importances(evaluation.detection.importances)
        found["importances"] = Markup(drawn)  # noqa: S704
    if figures.projection is not None:
        found["densities"] = plots.densities(figures.projection)
        found["explained"] = figures.projection.explained
    return found


def render_markdown(evaluation: Evaluation, *, title: str) -> str:
    """Short form for a pull request or a model card."""
    lines = [f"# {_cell(title)}", "", evaluation.verdict.headline, ""]
    lines += ["| | figure | verdict | |", "|-|-|-|-|"]
    for finding in evaluation.verdict.findings:
        cells = (finding.title, finding.value, WORDS[finding.light], finding.sentence)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    sizes = evaluation.dataset
    lines += [
        "",
        f"{sizes.num_synthetic:,} synthetic rows, learned from {sizes.num_train:,} real rows, "
        f"tested on {sizes.num_test:,} others. Costly metrics use at most "
        f"{sizes.sample_rows:,} rows of each. Scorer: {evaluation.scorer}, seed {evaluation.seed}.",
        "",
        "| column | kind | shape error % | real holdout % | coverage | invalid values |",
        "|-|-|-|-|-|-|",
    ]
    for row in column_rows(evaluation):
        cells = (
            row["name"],
            row["kind"],
            figure(row["shape"]),
            figure(row["floor"]),
            percent(row["coverage"], 1),
            str(row["invalid"]),
        )
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Escape what would break a Markdown table or become HTML."""
    for sign, escaped in (
        ("\\", "\\\\"),
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "\\|"),
    ):
        text = text.replace(sign, escaped)
    return text.replace("`", "\\`").replace("\n", " ").replace("\r", " ")
