"""The results of the examples of documents, as a table.

difflm run examples/tools.yaml; difflm run examples/json.yaml; difflm run examples/code.yaml
python benchmarks/documents.py runs/tools runs/json runs/code
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "documents.md"
STAGES = ("corpus", "vae", "latents", "generator", "synthetic", "report")


def main() -> None:
    """Read the runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="Folders of finished runs.")
    parser.add_argument("--write", action="store_true", help="Also write it beside this file.")
    arguments = parser.parse_args()
    columns = [dict(figures(run)) for run in arguments.runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = [
        f"| | {' | '.join(run.name for run in arguments.runs)} |",
        "|-|" + "-|" * len(columns),
        *(f"| {name} | {' | '.join(c.get(name, '') for c in columns)} |" for name in names),
    ]
    print("\n".join(lines))
    if arguments.write:
        text = f"# Documents\n\n{(__doc__ or '').strip()}\n\n" + "\n".join(lines) + "\n"
        RESULTS.write_text(text, encoding="utf-8")


def figures(run: Path) -> Iterator[tuple[str, str]]:
    """Names and values of the figures of a run; real ones in brackets."""
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = report["documents"]
    data, valid, copies = report["dataset"], found["validity"], found["repetition"]
    tries = data["num_synthetic"] + sum(valid["rejected"].values())
    yield "documents learned from", f"{data['num_train']:,}"
    yield "documents made", f"{data['num_synthetic']:,}"
    yield "valid at the first try %", f"{100 * data['num_synthetic'] / tries:.1f}"
    yield "valid, in the end %", f"{100 * (1 - valid['num_invalid'] / data['num_synthetic']):.1f}"
    language = found["language"]
    yield (
        "bits per character of real test documents, learned from them (from real ones)",
        f"{language['synthetic']:.3f} ({language['real']:.3f})",
    )
    yield "learned from both", f"{language['both']:.3f}"
    detection = found["detection"]
    yield (
        "AUC of telling them from real ones (fresh real ones)",
        f"{detection['auc']:.3f} ({detection['holdout_auc']:.3f})",
    )
    fidelity = report["fidelity"]
    yield (
        "shape error of features % (fresh real ones)",
        f"{fidelity['shape_error']:.2f} ({fidelity['holdout_shape_error']:.2f})",
    )
    spread = found["spread"]
    yield (
        "mean distance of two documents (real ones)",
        f"{spread['diversity']:.3f} ({spread['real_diversity']:.3f})",
    )
    if "score" in found["similarity"]:
        yield (
            "averaged similarity to real test documents (of real ones)",
            f"{found['similarity']['score']:.3f} ({found['holdout_similarity']['score']:.3f})",
        )
    if "share" in found["arguments"]:
        made, real = found["arguments"]["share"], found["arguments"]["real_share"]
        yield "arguments described correctly % (real)", f"{100 * made:.1f} ({100 * real:.1f})"
    yield (
        "exact copies % (fresh real ones)",
        f"{100 * copies['copy_rate']:.2f} ({100 * copies['holdout_copy_rate']:.2f})",
    )
    yield (
        "near copies % (fresh real ones)",
        f"{100 * copies['near_copy_rate']:.2f} ({100 * copies['holdout_near_copy_rate']:.2f})",
    )
    yield "repeated documents %", f"{100 * copies['duplicate_share']:.2f}"
    seconds = sum(
        json.loads((run / folder / "manifest.json").read_text(encoding="utf-8"))["provenance"][
            "duration_seconds"
        ]
        for folder in STAGES
    )
    yield "minutes", f"{seconds / 60:.1f}"


if __name__ == "__main__":
    main()
