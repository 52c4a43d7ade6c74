"""How missing values, truth values and unusual cells are spelled.

Recognised missing values come in two strengths. An *unmistakable* spelling is missing wherever it
occurs. An *ambiguous* one ("NA" is Namibia, "None" an answer) is missing only in a column whose
other values are of a type that it cannot belong to (numbers, dates, truth values); in a column of
categories it stays a category, and the schema says so in a note.
"""

from __future__ import annotations

import re

UNMISTAKABLE_MISSING = frozenset(
    {
        "?", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "<N/A>", "NaN", "nan", "-NaN",
        "-nan", "NaT", "NULL", "null", "(null)", "<null>", "\\N", "#NULL!", "1.#QNAN", "1.#IND",
        "-1.#IND",
    }
)  # fmt: skip

AMBIGUOUS_MISSING = frozenset(
    {
        "NA", "na", "Na", "None", "none", "NONE", "nil", "Nil", "Null", "-", "--", "---", ".", "..",
        "*", "_", "missing", "Missing", "MISSING", "unknown", "Unknown", "UNKNOWN", "undefined",
        "not available", "Not Available", "not applicable", "Not Applicable", "tbd", "TBD",
        "#DIV/0!", "#VALUE!", "#REF!", "blank", "Blank", "empty", "(empty)", "(blank)", "x", "X",
    }
)  # fmt: skip

ALL_MISSING = UNMISTAKABLE_MISSING | AMBIGUOUS_MISSING

TRUTH_PAIRS: tuple[tuple[str, str], ...] = (
    ("true", "false"),
    ("yes", "no"),
    ("t", "f"),
    ("y", "n"),
)

INFINITE = frozenset({"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})

_SHOWN_AS_IS = ALL_MISSING | {word for pair in TRUTH_PAIRS for word in pair} | INFINITE


def describe_spelling(value: str) -> str:
    """Show how an offending cell is spelled without showing its content.

    Letters become `a` or `A` and digits `9`; well-known words such as `unknown` stay as they are.
    """
    stripped = value.strip()
    if stripped in _SHOWN_AS_IS or stripped.lower() in _SHOWN_AS_IS:
        return repr(stripped)
    shape = re.sub(r"[^\W\d_]", lambda match: "A" if match[0].isupper() else "a", stripped)
    shape = re.sub(r"\d", "9", shape)
    return f"text of the form {shape[:24] + ('...' if len(shape) > 24 else '')!r}"
