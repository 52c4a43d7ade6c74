"""JSON as the standard has it: no key twice in one object, no NaN, no infinity."""

from __future__ import annotations

import json
from typing import Any


class DuplicateKeyError(ValueError):
    """A key stands twice in one object."""


def parse_strictly(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        json.JSONDecodeError: it is not JSON.
        DuplicateKeyError: a key stands twice in one object, so one of its values would be lost.
        ValueError: it holds NaN or an infinity; the message says which.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DuplicateKeyError("a key stands twice in one object; expected unique keys")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number; expected a finite number or null")
