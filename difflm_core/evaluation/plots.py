"""Plots of the report as inline SVG that follows the page's colours (light, dark and print).

Drawn by hand rather than by a plotting library: the page styles them through the classes `real`,
`made`, `axis`, `grid` and `text`, they stay sharp, scale to a phone and weigh a few kilobytes.
Only densities are pixels (PNG). All names are escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib import image
from numpy.typing import NDArray

from difflm_core.evaluation.results import (
    ColumnHistogram,
    DetectorImportance,
    FigureData,
    ProjectionDensity,
)

Floats = NDArray[np.float64]
REAL_RGB = (37, 99, 235)
MADE_RGB = (234, 88, 12)


def histogram(item: ColumnHistogram) -> str:
    """Real and synthetic distribution of one column."""
    if item.edges is None:
        return _category_bars(item)
    return _number_steps(item)


def _number_steps(item: ColumnHistogram) -> str:
    width, height, bottom = 300.0, 130.0, 18.0
    edges = item.edges if item.edges is not None else np.array([0.0, 1.0])
    top = max(float(item.real.max()), float(item.synthetic.max()), 1e-12)
    plot = height - bottom
    span = float(edges[-1] - edges[0]) or 1.0
    xs = (edges - edges[0]) / span * (width - 8) + 4

    def path(shares: Floats, closed: bool) -> str:
        ys = plot - shares / top * (plot - 6)
        steps = [f"M{xs[0]:.1f} {plot:.1f}"]
        for index, y in enumerate(ys):
            steps.append(f"V{y:.1f}H{xs[index + 1]:.1f}")
        steps.append(f"V{plot:.1f}")
        return "".join(steps) + ("Z" if closed else "")

    ticks = [
        (4.0, "start", edges[0]),
        (width / 2, "middle", (edges[0] + edges[-1]) / 2),
        (width - 4, "end", edges[-1]),
    ]
    marks = "".join(
        f'<text class="text" x="{x:.0f}" y="{height - 5:.0f}" text-anchor="{anchor}">'
        f"{escape(short_number(float(value)))}</text>"
        for x, anchor, value in ticks
    )
    label = escape(f"{item.name}: real and synthetic distribution", quote=True)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">'
        f'<path class="real area" d="{path(item.real, True)}"/>'
        f'<path class="made line" d="{path(item.synthetic, False)}"/>'
        f'<line class="axis" x1="4" x2="{width - 4:.0f}" y1="{plot:.1f}" y2="{plot:.1f}"/>'
        f"{marks}</svg>"
    )


def _category_bars(item: ColumnHistogram) -> str:
    row, label_width, width = 17.0, 112.0, 300.0
    height = row * len(item.labels) + 4
    top = max(float(item.real.max()), float(item.synthetic.max()), 1e-12)
    room = width - label_width - 44
    parts: list[str] = []
    for index, label in enumerate(item.labels):
        y = 2 + index * row
        real, made = float(item.real[index]), float(item.synthetic[index])
        parts.append(
            f'<text class="text" x="{label_width - 6:.0f}" y="{y + 11.5:.1f}" text-anchor="end">'
            f"{escape(shorten(label, 17))}<title>{escape(label)}</title></text>"
            f'<rect class="real area" x="{label_width:.0f}" y="{y + 1.5:.1f}" height="6" '
            f'width="{max(0.5, real / top * room):.1f}"/>'
            f'<rect class="made area" x="{label_width:.0f}" y="{y + 8:.1f}" height="6" '
            f'width="{max(0.5, made / top * room):.1f}"/>'
            f'<text class="text" x="{width - 2:.0f}" y="{y + 11.5:.1f}" text-anchor="end">'
            f"{100 * real:.1f} %</text>"
        )
    name = escape(f"{item.name}: real and synthetic shares", quote=True)
    body = "".join(parts)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{name}">{body}</svg>'
    )


def matrix(names: Sequence[str], values: Floats, *, diverging: bool) -> str:
    """Association matrix as coloured cells (opacity = strength; diverging: more or less)."""
    size = len(names)
    label = 96.0 if size <= 40 else 0.0
    cell = (340.0 - label) / size
    parts: list[str] = []
    for row in range(size):
        y = row * cell
        name = escape(shorten(names[row], 14))
        parts.append(
            f'<text class="text cell" x="{label - 4:.0f}" y="{y + cell / 2 + 3:.1f}" '
            f'text-anchor="end" style="font-size:{min(11.0, cell * 0.85):.1f}px">{name}</text>'
        )
        for column in range(size):
            value = float(values[row, column])
            if np.isnan(value):
                kind, strength = "void", 1.0
            elif diverging:
                kind, strength = ("more" if value > 0 else "less"), min(1.0, abs(value) / 0.25)
            else:
                kind, strength = "strong", min(1.0, abs(value))
            title = escape(f"{names[row]} and {names[column]}: {value:.2f}")
            parts.append(
                f'<rect class="{kind}" x="{label + column * cell:.1f}" y="{y:.1f}" '
                f'width="{cell - 0.6:.1f}" height="{cell - 0.6:.1f}" '
                f'fill-opacity="{strength:.2f}"><title>{title}</title></rect>'
            )
    return f'<svg viewBox="0 0 340 {size * cell:.0f}" role="img">{"".join(parts)}</svg>'


def roc(curves: dict[str, tuple[Floats, Floats]]) -> str:
    """ROC curves of the downstream model trained on real and on synthetic rows."""
    size, left = 260.0, 34.0
    parts = _frame(size, left, "false alarms", "found")
    parts.append(
        f'<line class="grid" x1="{left}" y1="{size}" x2="{left + size}" y2="0" '
        'stroke-dasharray="4 4"/>'
    )
    for source, kind in (("real", "real"), ("synthetic", "made")):
        if source in curves:
            false_rate, true_rate = curves[source]
            points = " ".join(
                f"{left + x * size:.1f},{size - y * size:.1f}"
                for x, y in zip(false_rate, true_rate, strict=True)
            )
            parts.append(f'<polyline class="{kind} line" points="{points}"/>')
    return (
        f'<svg viewBox="0 -6 {left + size + 8:.0f} {size + 44:.0f}" role="img" '
        f'aria-label="ROC curves">{"".join(parts)}</svg>'
    )


def distances(figures: FigureData) -> str:
    """Distribution of the distance to the closest record, three ways."""
    if figures.dcr_edges is None:
        return ""
    edges, width, height, left = figures.dcr_edges, 520.0, 180.0, 6.0
    top = max(float(counts.max()) for counts in figures.dcr_counts.values()) or 1.0
    parts: list[str] = []
    kinds = ("made line", "made line dashed", "real area")
    named = list(zip(figures.dcr_counts.items(), kinds, strict=True))
    for (_name, counts), kind in reversed(named):
        xs = left + edges / edges[-1] * (width - 2 * left)
        steps = [f"M{xs[0]:.1f} {height}"]
        for index, share in enumerate(counts):
            steps.append(f"V{height - share / top * (height - 8):.1f}H{xs[index + 1]:.1f}")
        steps.append(f"V{height}")
        parts.append(f'<path class="{kind}" d="{"".join(steps)}"/>')
    for share in (0.0, 0.5, 1.0):
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
        x = left + share * (width - 2 * left)
        parts.append(
            f'<text class="text" x="{x:.0f}" y="{height + 16:.0f}" text-anchor="{anchor}">'
            f"{share * float(edges[-1]):.2g}</text>"
        )
    parts.append(
        f'<line class="axis" x1="{left}" x2="{width - left}" y1="{height}" y2="{height}"/>'
    )
    return (
        f'<svg viewBox="0 0 {width:.0f} {height + 22:.0f}" role="img" '
        f'aria-label="Distance to the closest record">{"".join(parts)}</svg>'
    )


def similarities(edges: Floats, shares: Mapping[str, Floats]) -> str:
    """Similarity to the nearest training document: synthetic (line) and fresh real ones (area)."""
    width, height, left = 520.0, 160.0, 6.0
    top = max(float(values.max()) for values in shares.values()) or 1.0
    xs = left + edges / edges[-1] * (width - 2 * left)
    parts: list[str] = []
    for name, kind in (("test", "real area"), ("synthetic", "made line")):
        steps = [f"M{xs[0]:.1f} {height}"]
        for index, share in enumerate(shares[name]):
            steps.append(f"V{height - share / top * (height - 8):.1f}H{xs[index + 1]:.1f}")
        steps.append(f"V{height}")
        parts.append(f'<path class="{kind}" d="{"".join(steps)}"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = left + share * (width - 2 * left)
        parts.append(
            f'<text class="text" x="{x:.0f}" y="{height + 16:.0f}" text-anchor="{anchor}">'
            f"{share:g}</text>"
        )
    parts.append(
        f'<line class="axis" x1="{left}" x2="{width - left}" y1="{height}" y2="{height}"/>'
    )
    return (
        f'<svg viewBox="0 0 {width:.0f} {height + 22:.0f}" role="img" '
        f'aria-label="Similarity to the nearest training document">{"".join(parts)}</svg>'
    )


def importances(items: Sequence[DetectorImportance], limit: int = 10) -> str:
    """Bars of the columns that give the synthetic rows away."""
    shown = [item for item in items[:limit] if item.share > 0]
    row, width, label_width = 22.0, 420.0, 130.0
    top = max((item.share for item in shown), default=1.0) or 1.0
    parts = [
        f'<text class="text" x="{label_width - 6:.0f}" y="{index * row + 14:.0f}" '
        f'text-anchor="end">{escape(shorten(item.name, 20))}<title>{escape(item.name)}</title>'
        f'</text><rect class="accent" x="{label_width:.0f}" y="{index * row + 3:.0f}" height="14" '
        f'rx="2" width="{item.share / top * (width - label_width - 46):.1f}"/>'
        f'<text class="text" x="{width - 2:.0f}" y="{index * row + 14:.0f}" text-anchor="end">'
        f"{100 * item.share:.0f} %</text>"
        for index, item in enumerate(shown)
    ]
    height = row * len(shown)
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img">{"".join(parts)}</svg>'


def densities(density: ProjectionDensity) -> dict[str, str]:
    """Three PNGs as data URIs: real, synthetic and their difference."""
    real = density.real / max(1.0, density.real.sum())
    made = density.synthetic / max(1.0, density.synthetic.sum())
    top = float(np.quantile(np.concatenate([real[real > 0], [1e-12]]), 0.98))
    change = made - real
    pictures = {
        "real": _shade(np.sqrt(np.clip(real / top, 0, 1)), REAL_RGB),
        "synthetic": _shade(np.sqrt(np.clip(made / top, 0, 1)), MADE_RGB),
    }
    positive = _shade(np.clip(change / top * 2, 0, 1), MADE_RGB)
    negative = _shade(np.clip(-change / top * 2, 0, 1), REAL_RGB)
    pictures["difference"] = np.where((change > 0)[..., None], positive, negative)
    return {name: _data_uri(pixels) for name, pixels in pictures.items()}


def _shade(strength: Floats, color: tuple[int, int, int]) -> NDArray[np.uint8]:
    pixels = np.zeros((*strength.shape, 4), dtype=np.uint8)
    pixels[..., :3] = color
    pixels[..., 3] = np.round(255 * strength).astype(np.uint8)
    return pixels


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    upright = np.ascontiguousarray(np.flipud(pixels.transpose(1, 0, 2)))
    buffer = io.BytesIO()
    image.imsave(buffer, upright, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _frame(size: float, left: float, x_label: str, y_label: str) -> list[str]:
    parts: list[str] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + share * size, size - share * size
        parts.append(f'<line class="grid" x1="{left}" x2="{left + size}" y1="{y}" y2="{y}"/>')
        if share in (0.0, 0.5, 1.0):
            parts.append(
                f'<text class="text" x="{x}" y="{size + 15}" text-anchor="middle">{share:g}</text>'
                f'<text class="text" x="{left - 5}" y="{y + 4}" text-anchor="end">{share:g}</text>'
            )
    parts.append(
        f'<text class="text" x="{left + size / 2}" y="{size + 32}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="text" x="8" y="{size / 4}" text-anchor="middle" '
        f'transform="rotate(-90 8 {size / 4})">{escape(y_label)}</text>'
    )
    return parts


def shorten(text: str, limit: int) -> str:
    """Cut a label to `limit` characters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def short_number(value: float) -> str:
    """A number of at most about six characters for an axis."""
    size = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scale = {"G": 1e9, "M": 1e6, "k": 1e3}[suffix]
            return f"{value / scale:.3g}{suffix}"
    if size >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"
