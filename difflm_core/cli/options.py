"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from difflm_core.outputs import Replace

SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override a setting; may be given several times.",
        default_factory=list,
        show_default=False,
    ),
]
WhereOption = Annotated[
    list[str],
    typer.Option(
        "--where",
        metavar="COLUMN=VALUE",
        help="Only rows with this value: A|B for one of several, MIN..MAX, MIN.. or ..MAX for a "
        "range (dates in ISO form), nothing for a missing value, or JSON; may be given for "
        "several columns.",
        default_factory=list,
        show_default=False,
    ),
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="Configuration (YAML).")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Begin anew: replace earlier output of the same stages.")
]
ReplaceChangedOption = Annotated[
    bool,
    typer.Option(
        "--replace-changed",
        help="Redo what has other settings or inputs than before; keep the rest.",
    ),
]


def replace_mode(fresh: bool, replace_changed: bool) -> Replace:
    """Combine the two flags."""
    return "always" if fresh else "changed" if replace_changed else "never"
