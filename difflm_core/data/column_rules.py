"""Rules of the inference that need some arithmetic: missing spellings, dates, identifiers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from difflm_core.data.identifiers import IdentifierPattern, Run, Sequence, infer_codes
from difflm_core.data.profile import ColumnProfile, spellings_by_count
from difflm_core.data.schema import ColumnKind
from difflm_core.data.spellings import ALL_MISSING, UNMISTAKABLE_MISSING
from difflm_core.data.trackers import RunningNumber

_NAME_OF_IDENTIFIER = re.compile(
    r"(^|[_\s.\-])(id|no|nr|num|number|key|uuid|guid|idx|index|rowid|pk|hash|ref)$|^unnamed: 0$",
    re.IGNORECASE,
)
_CAMEL_ID = re.compile(r"[a-z0-9](Id|ID|No|Uuid|UUID|Key|Number)$")
_DECORATED_NUMBER = re.compile(
    r"^(?!\d+$)[-+(]*[$€£¥]?\s?[-+]?\d{1,3}([,.' ]?\d{3})*([.,]\d+)?\)?"
    r"\s?(%|[$€£¥]|[A-Za-z]{1,3})?$"
)
MIN_ROWS_WITHOUT_NAME = 20
NEARLY_UNIQUE = 0.97
DENSE = 10


@dataclass(frozen=True)
class Decision:
    """What the inference concludes about a column."""

    kind: ColumnKind
    missing: list[str]
    format: str | None = None
    pattern: str | None = None
    truth: tuple[str, str] | None = None
    note: str | None = None


def typed_missing(profile: ColumnProfile) -> list[str]:
    """Spellings that mean missing in a column whose other values have a type."""
    return [text for text in spellings_by_count(profile.others or {}) if text in ALL_MISSING]


def category_missing(profile: ColumnProfile) -> list[str]:
    """Spellings that mean missing in a column of categories, identifiers or text."""
    others = profile.others
    if others is None:
        return []
    return [text for text in spellings_by_count(others) if text in UNMISTAKABLE_MISSING]


def unmistakable_numbers(profile: ColumnProfile, unknown: int) -> bool:
    """Whether a column is numeric but for a few stray cells.

    Codes such as "250.83" and "V57" are not: their letters come in many spellings or often.
    """
    numbers = profile.num_integer + profile.num_decimal
    return (
        0 < unknown <= 0.01 * numbers
        and profile.others is not None
        and len(profile.others) <= 20
        and profile.values.num_distinct > 200
        and profile.num_padded == 0
        and profile.num_big == 0
    )


def decide_temporal(profile: ColumnProfile) -> Decision | None:
    """Date, time or datetime, if one format fits every cell that is not missing."""
    if not profile.formats:
        return None
    missing = typed_missing(profile)
    others = profile.others or {}
    expected = profile.num_other - sum(others.get(text, 0) for text in missing)
    fitting = [key for key, hits in profile.formats.items() if hits == expected]
    if not fitting or expected == 0:
        return None
    kind, fmt = fitting[0]
    note = None
    swapped = [other for _, other in fitting[1:] if other != fmt and _swap_day_month(fmt) == other]
    if swapped:
        fmt, note = _choose_order(profile, fmt, swapped[0])
    elif "%y" in fmt:
        note = "two-digit years: 69-99 are read as 1969-1999, 00-68 as 2000-2068"
    return Decision(ColumnKind(kind), missing, format=fmt, note=note)


def _swap_day_month(fmt: str) -> str:
    swaps = {"%d": "%m", "%m": "%d", "%-d": "%-m", "%-m": "%-d"}
    return re.sub(r"%-?[dm]", lambda match: swaps[match[0]], fmt)


def _choose_order(profile: ColumnProfile, fmt: str, swapped: str) -> tuple[str, str]:
    """Decide between day first and month first when every cell fits both.

    Evidence: within a table days take more different values than months.
    """
    first, second = set[str](), set[str]()
    for text in profile.values.sample:
        numbers = re.findall(r"\d+", text)
        at = 1 if fmt.startswith("%Y") else 0
        if len(numbers) > at + 1:
            first.add(numbers[at])
            second.add(numbers[at + 1])
    month_first, day_first = (fmt, swapped) if _month_leads(fmt) else (swapped, fmt)
    if len(first) >= 2 * len(second) and len(first) >= 6:
        chosen = day_first
    elif len(second) >= 2 * len(first) and len(second) >= 6:
        chosen = month_first
    else:
        chosen = fmt
    order = "month first" if _month_leads(chosen) else "day first"
    other = day_first if chosen == month_first else month_first
    return chosen, f"no day above 12: read as {order}; set format to '{other}' otherwise"


def _month_leads(fmt: str) -> bool:
    return re.findall("%-?([dm])", fmt)[0] == "m"


def is_decorated_number(profile: ColumnProfile) -> bool:
    """Whether texts are numbers with a unit, currency, percent sign or separators."""
    sample = profile.values.sample[:200]
    return bool(sample) and all(_DECORATED_NUMBER.match(text.strip()) for text in sample)


def has_identifier_name(name: str) -> bool:
    """Whether a column name says that the column identifies its rows."""
    return bool(_NAME_OF_IDENTIFIER.search(name.strip()) or _CAMEL_ID.search(name.strip()))


def _is_unique(profile: ColumnProfile, missing: list[str], at_least: float = 1.0) -> bool:
    others = profile.others or {}
    present = profile.num_present - sum(others.get(text, 0) for text in missing)
    distinct = profile.values.num_distinct - sum(text in others for text in missing)
    if profile.values.counts is not None:
        return distinct >= at_least * present
    return distinct >= min(at_least, NEARLY_UNIQUE) * present


def integer_identifier(profile: ColumnProfile, missing: list[str]) -> Decision | None:
    """Identifier made of whole numbers: a row number, or unique numbers under a telling name."""
    running = profile.running
    low, high = running.minimum, running.maximum
    if low is None or high is None or low < 0 or running.count < 2:
        return None
    named = has_identifier_name(profile.name)
    if not _is_unique(profile, missing, 1.0):
        return None
    span = high - low + 1
    in_order = running.is_sequence and running.count >= profile.num_present
    counts_up = in_order and running.step == 1
    is_row_number = counts_up and low <= 1 and running.count >= MIN_ROWS_WITHOUT_NAME
    is_long_sequence = counts_up and running.count >= 200
    is_permutation = span == running.count and running.count >= 1_000
    if not (is_row_number or is_long_sequence or is_permutation or named):
        return None
    step = running.step or 1
    if in_order or span <= DENSE * running.count:
        pattern = IdentifierPattern((Sequence(high + step, step if in_order else 1),))
    else:
        widths = len(str(low)), len(str(high))
        pattern = IdentifierPattern(
            (Run("123456789"), Run("0123456789", widths[0] - 1, widths[1] - 1))
            if widths[1] > 1
            else (Sequence(high + 1),)
        )
    return Decision(ColumnKind.IDENTIFIER, missing, pattern=pattern.text())


def decide_identifier(profile: ColumnProfile, *, forced: bool = False) -> Decision | None:
    """Identifier made of codes of one form: UUIDs, prefixed numbers, fixed-form random codes."""
    missing = category_missing(profile)
    if forced and profile.num_integer and not profile.num_other:
        found = integer_identifier(profile, missing)
        if found is not None:
            return found
    threshold = 0.99 if has_identifier_name(profile.name) else 1.0
    if not forced and (profile.num_present < 2 or not _is_unique(profile, missing, threshold)):
        return None
    if not forced and is_decorated_number(profile):
        return None
    values = [text.strip() for text in profile.values.sample if text.strip() not in missing]
    pattern = infer_codes(values)
    if pattern is None:
        return None
    if pattern.is_uuid:
        return Decision(ColumnKind.IDENTIFIER, missing, pattern=pattern.text())
    if not forced and not _looks_generated(profile, pattern, len(values)):
        return None
    sequenced = _as_sequence(profile, pattern, values)
    return Decision(ColumnKind.IDENTIFIER, missing, pattern=(sequenced or pattern).text())


def _looks_generated(profile: ColumnProfile, pattern: IdentifierPattern, num_values: int) -> bool:
    """Whether unique texts are codes rather than names: they contain digits in a fixed form."""
    has_digits = any(
        isinstance(part, Run) and len(part.alphabet) > 1 and part.alphabet[0] in "0123456789"
        for part in pattern.parts
    )
    fixed = sum(isinstance(part, Run) and part.least == part.most for part in pattern.parts)
    if has_identifier_name(profile.name):
        return has_digits or fixed == len(pattern.parts)
    return (
        has_digits
        and num_values >= MIN_ROWS_WITHOUT_NAME
        and (fixed >= len(pattern.parts) - 1 or profile.tails is not None)
    )


def _as_sequence(
    profile: ColumnProfile, pattern: IdentifierPattern, values: list[str]
) -> IdentifierPattern | None:
    """Turn codes such as CUST-000123 into a sequence when their numbers are dense."""
    running: RunningNumber | None = profile.tails
    if running is None or running.maximum is None or running.minimum is None:
        return None
    last = pattern.parts[-1] if pattern.parts else None
    prefix = pattern.parts[:-1]
    tail = re.compile(r"^(.*?)(\d+)$", re.DOTALL)
    found = [match for match in (tail.match(value) for value in values) if match is not None]
    if not isinstance(last, Run) or len(found) < len(values):
        return None
    heads = {match[1] for match in found}
    if len(heads) != 1 or any(not isinstance(part, Run) for part in prefix):
        return None
    in_order = running.is_sequence and running.count >= profile.num_present
    span = running.maximum - running.minimum + 1
    if not in_order and span > DENSE * max(1, running.count):
        return None
    step = (running.step or 1) if in_order else 1
    padded = any(len(match[2]) > 1 and match[2][0] == "0" for match in found)
    digits = len(found[0][2]) if padded else 0
    parts = tuple(Run(char) for char in next(iter(heads)))
    return IdentifierPattern((*parts, Sequence(running.maximum + step, step, digits)))
