"""Dates and times as text: guess the format, parse, write; every year from 1 to 9999.

Formats are those of `strptime` with the parts `%-d %-m %-H %-I` for numbers without leading zero.
Parsing is strict (the whole cell, valid calendar days) and vectorised; a cell that does not fit
becomes null and the caller decides what that means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module

I64 = npt.NDArray[np.int64]

pc: Any = pc_module

MICROS_PER_SECOND = 1_000_000
MICROS_PER_DAY = 86_400 * MICROS_PER_SECOND

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september",
           "october", "november", "december")  # fmt: skip
_SHORT = "|".join(name[:3] for name in _MONTHS)
_LONG = "|".join(_MONTHS)

_DIRECTIVES: dict[str, tuple[str, str]] = {
    "%Y": ("year", r"\d{4}"),
    "%y": ("year2", r"\d{2}"),
    "%m": ("month", r"\d{2}"),
    "%-m": ("month", r"\d{1,2}"),
    "%b": ("monthname", f"(?i:{_SHORT})"),
    "%B": ("monthname", f"(?i:{_LONG})"),
    "%d": ("day", r"\d{2}"),
    "%-d": ("day", r"\d{1,2}"),
    "%H": ("hour", r"\d{2}"),
    "%-H": ("hour", r"\d{1,2}"),
    "%I": ("hour12", r"\d{2}"),
    "%-I": ("hour12", r"\d{1,2}"),
    "%p": ("half", "(?i:am|pm)"),
    "%M": ("minute", r"\d{2}"),
    "%S": ("second", r"\d{2}"),
    "%f": ("fraction", r"\d{1,6}"),
    "%z": ("offset", r"Z|[+-]\d{2}:?\d{2}"),
}

_DATE_PARTS = {"year", "year2", "month", "monthname", "day"}
_TIME_PARTS = {"hour", "hour12", "half", "minute", "second", "fraction", "offset"}

# In order of preference: padded before unpadded, and where day and month cannot be told apart by
# any value, month first with slashes and day first with dots and dashes (the usual habits).
DATE_FORMATS: tuple[str, ...] = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%m/%d/%Y", "%d/%m/%Y", "%-m/%-d/%Y", "%-d/%-m/%Y",
    "%d.%m.%Y", "%-d.%-m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%-d-%-m-%Y", "%-m-%-d-%Y", "%Y-%-m-%-d",
    "%Y/%-m/%-d", "%d-%b-%Y", "%-d-%b-%Y", "%d %b %Y", "%-d %b %Y", "%d %B %Y", "%-d %B %Y",
    "%b %d, %Y", "%b %-d, %Y", "%B %d, %Y", "%B %-d, %Y", "%b %d %Y", "%b %-d %Y", "%d/%b/%Y",
    "%m/%d/%y", "%d/%m/%y", "%-m/%-d/%y", "%-d/%-m/%y", "%d.%m.%y", "%-d.%-m.%y", "%d-%b-%y",
    "%-d-%b-%y", "%Y-%m", "%Y/%m", "%b %Y", "%b-%Y", "%B %Y", "%b-%y", "%m/%Y",
)  # fmt: skip
TIME_FORMATS: tuple[str, ...] = (
    "%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%-H:%M:%S", "%-H:%M", "%I:%M:%S %p", "%I:%M %p",
    "%-I:%M:%S %p", "%-I:%M %p", "%I:%M%p", "%-I:%M%p",
)  # fmt: skip
_COMPACT_FORMATS = ("%Y%m%dT%H%M%S", "%Y%m%d%H%M%S")


def format_parts(fmt: str) -> list[str]:
    """Split a format into directives (`%Y`) and literal characters."""
    return re.findall(r"%-?[A-Za-z%]|.", fmt, flags=re.DOTALL)


def check_format(fmt: str, kind: str) -> str | None:
    """What is wrong with a format for a column of kind date, time or datetime, or None."""
    groups: list[str] = []
    for part in format_parts(fmt):
        if part.startswith("%") and len(part) > 1 and part != "%%":
            if part not in _DIRECTIVES:
                known = " ".join(_DIRECTIVES)
                return f"format {fmt!r} has the unknown part {part!r}; known parts: {known}"
            groups.append(_DIRECTIVES[part][0])
    if len(set(groups)) != len(groups):
        return f"format {fmt!r} has a part twice; each part may appear once"
    has_date, has_time = bool(_DATE_PARTS & set(groups)), bool(_TIME_PARTS & set(groups))
    if has_date and not {"year", "year2"} & set(groups):
        return f"format {fmt!r} has no year; add %Y or %y"
    found = "datetime" if has_date and has_time else "date" if has_date else "time"
    if not (has_date or has_time) or (kind == "time") != (found == "time"):
        return f"format {fmt!r} describes a {found}; the column is of kind '{kind}'"
    if kind == "date" and has_time:
        return f"format {fmt!r} has a time of day; use kind 'datetime' or remove those parts"
    return None


@cache
def _compiled(fmt: str) -> tuple[str, tuple[str, ...]]:
    """Anchored RE2 pattern of a format, and its groups."""
    pattern, groups = "", list[str]()
    for part in format_parts(fmt):
        if part in _DIRECTIVES:
            group, expression = _DIRECTIVES[part]
            pattern += f"(?P<{group}>{expression})"
            groups.append(group)
        else:
            pattern += re.escape("%" if part == "%%" else part)
    return f"^{pattern}$", tuple(groups)


@cache
def _python_pattern(fmt: str) -> re.Pattern[str]:
    return re.compile(_compiled(fmt)[0][1:-1])


def guess_formats(value: str) -> Iterator[tuple[str, str]]:
    """Yield every (kind, format) that fits one cell, in order of preference."""
    if not 4 <= len(value) <= 40 or not any(char.isdigit() for char in value):
        return
    for time in TIME_FORMATS:
        if _python_pattern(time).fullmatch(value):
            yield "time", time
    for compact in _COMPACT_FORMATS:
        if _python_pattern(compact).fullmatch(value):
            yield "datetime", compact
    for date in DATE_FORMATS:
        match = _python_pattern(date).match(value)
        if match is None:
            continue
        rest = value[match.end() :]
        if not rest:
            yield "date", date
        elif (gap := re.match(r"T|,? ", rest)) is not None:
            for time in TIME_FORMATS:
                found = _python_pattern(time).match(rest, gap.end())
                zone = rest[found.end() :] if found else "no"
                if zone in ("", "Z"):
                    yield "datetime", date + gap[0] + time + zone
                elif re.fullmatch(r" ?[+-]\d{2}:?\d{2}", zone):
                    yield "datetime", date + gap[0] + time + (" %z" if zone[0] == " " else "%z")


def parse_text(values: pa.Array, fmt: str) -> pa.Array:
    """Parse text as microseconds: since 1970 if the format has a date, else since midnight.

    Args:
        values: String array, already trimmed.
        fmt: Format of every cell.

    Returns:
        int64 array; null where the cell is null, does not fit the format, or is no valid day.
    """
    pattern, groups = _compiled(fmt)
    found = pc.extract_regex(values, pattern)
    valid = found.is_valid().to_numpy(zero_copy_only=False)
    count = len(values)

    def numbers(group: str, default: int) -> I64:
        if group not in groups:
            return np.full(count, default, dtype=np.int64)
        part = found.field(groups.index(group))
        return pc.fill_null(pc.cast(pc.if_else(valid, part, None), pa.int64()), default).to_numpy()

    def texts(group: str) -> npt.NDArray[np.object_]:
        part = found.field(groups.index(group))
        return pc.fill_null(pc.utf8_lower(pc.if_else(valid, part, None)), "").to_numpy(
            zero_copy_only=False
        )

    year, month, day = numbers("year", 1970), numbers("month", 1), numbers("day", 1)
    if "year2" in groups:
        short = numbers("year2", 70)
        year = np.where(short < 69, 2000 + short, 1900 + short)  # the rule of strptime
    if "monthname" in groups:
        order = {name[:3]: number for number, name in enumerate(_MONTHS, 1)}
        names = texts("monthname")
        month = np.array([order.get(name[:3], 1) for name in names], dtype=np.int64)
    hour, minute, second = numbers("hour", 0), numbers("minute", 0), numbers("second", 0)
    if "hour12" in groups:
        hour = numbers("hour12", 12)
        valid &= (hour >= 1) & (hour <= 12)
        hour = hour % 12 + (12 * (texts("half") == "pm") if "half" in groups else 0)
    micros = np.zeros(count, dtype=np.int64)
    if "fraction" in groups:
        digits = pc.utf8_rpad(
            pc.if_else(valid, found.field(groups.index("fraction")), None), 6, "0"
        )
        micros = pc.fill_null(pc.cast(digits, pa.int64()), 0).to_numpy()
    valid &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    month = np.clip(month, 1, 12)
    valid &= day <= days_in_month(year, month)
    clock = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros
    if "offset" in groups:
        clock -= np.array([_offset_micros(text) for text in texts("offset")], dtype=np.int64)
    days = days_from_civil(year, month, day) if _DATE_PARTS & set(groups) else 0
    return pa.array(days * MICROS_PER_DAY + clock, mask=~valid)


def _offset_micros(text: str) -> int:
    if text in ("", "z"):
        return 0
    sign = -1 if text[0] == "-" else 1
    return sign * (int(text[1:3]) * 60 + int(text[-2:])) * 60 * MICROS_PER_SECOND


def format_text(micros: pa.Array, fmt: str) -> pa.Array:
    """Write microseconds (since 1970, or since midnight) as text; nulls stay null."""
    encoded = cast("Any", micros).dictionary_encode()
    value = encoded.dictionary.to_numpy(zero_copy_only=False).astype(np.int64)
    days, clock = np.divmod(value, MICROS_PER_DAY)
    year, month, day = civil_from_days(days)
    seconds, fraction = np.divmod(clock, MICROS_PER_SECOND)
    minutes, second = np.divmod(seconds, 60)
    hour, minute = np.divmod(minutes, 60)
    columns: dict[str, tuple[I64, str]] = {
        "%Y": (year, "04d"), "%y": (year % 100, "02d"), "%m": (month, "02d"), "%-m": (month, "d"),
        "%d": (day, "02d"), "%-d": (day, "d"), "%H": (hour, "02d"), "%-H": (hour, "d"),
        "%I": ((hour + 11) % 12 + 1, "02d"), "%-I": ((hour + 11) % 12 + 1, "d"),
        "%M": (minute, "02d"), "%S": (second, "02d"), "%f": (fraction, "06d"),
    }  # fmt: skip
    names: dict[str, tuple[I64, list[str]]] = {
        "%b": (month - 1, [name[:3].title() for name in _MONTHS]),
        "%B": (month - 1, [name.title() for name in _MONTHS]),
        "%p": (hour // 12, ["AM", "PM"]),
    }
    pieces: list[list[str]] = []
    for part in format_parts(fmt):
        if part in columns:
            numbers, spec = columns[part]
            pieces.append([format(number, spec) for number in numbers.tolist()])
        elif part in names:
            index, words = names[part]
            pieces.append([words[i] for i in index.tolist()])
        else:
            literal = {"%z": "+00:00", "%%": "%"}.get(part, part)
            pieces.append([literal] * len(value))
    texts = ["".join(row) for row in zip(*pieces, strict=True)]
    return pa.array(texts, pa.string()).take(encoded.indices)


def days_in_month(year: I64, month: I64) -> I64:
    """Number of days of each month of the Gregorian calendar."""
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    lengths = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)
    return lengths[month - 1] + (leap & (month == 2))


def days_from_civil(year: I64, month: I64, day: I64) -> I64:
    """Days since 1970-01-01 of Gregorian dates.

    Source: Howard Hinnant, "chrono-compatible low-level date algorithms".
    """
    year = year - (month <= 2)
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146097 + day_of_era - 719468


def civil_from_days(days: I64) -> tuple[I64, I64, I64]:
    """Year, month and day of days since 1970-01-01; inverse of `days_from_civil`."""
    days = days + 719468
    era = days // 146097
    day_of_era = days - era * 146097
    year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + np.where(shifted < 10, 3, -9)
    return year_of_era + era * 400 + (month <= 2), month, day
