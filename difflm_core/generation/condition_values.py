"""The values of conditions: from JSON or text to canonical values, checked against the codec."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from difflm_core.codec.masses import ColumnMass, column_mass
from difflm_core.codec.numbers import NumberForm
from difflm_core.codec.records import RecordCodec
from difflm_core.data.schema import NUMERIC_KINDS, Column, ColumnKind, absent_name
from difflm_core.errors import ConfigError
from difflm_core.generation.choices import column_choices, json_value

_INT64 = (-(2**63), 2**63 - 1)
_RANGE_EXAMPLES: dict[ColumnKind, str] = {
    ColumnKind.DATE: '"2024-01-31"',
    ColumnKind.TIME: '"18:30:00"',
    ColumnKind.DATETIME: '"2024-01-31" or "2024-01-31T18:30:00"',
}
_NO_CONDITION = {
    ColumnKind.TEXT: "free text",
    ColumnKind.IDENTIFIER: "identifiers, which are made for each row anew",
}


@dataclass(frozen=True)
class Piece:
    """One thing that a column is asked for: a value, a range, or missing values.

    Attributes:
        low: Canonical value or lower bound.
        high: Upper bound, included.
        is_single: Whether `low` alone is meant.
        is_missing: Whether missing values are meant.
        share: About the share of the training rows that meet it.
    """

    low: Any = None
    high: Any = None
    is_single: bool = False
    is_missing: bool = False
    share: float = 1.0


class ValueReader:
    """Reads what one column is asked for."""

    def __init__(self, codec: RecordCodec, name: str) -> None:
        """Look the column up."""
        self.column: Column = codec.schema.column(name)
        self._choices = column_choices(codec, name)
        self._found_mass = column_mass(codec, name)

    def read(self, wanted: Any) -> list[Piece]:
        """What is asked for: any of the pieces; none where every row meets it.

        Raises:
            ConfigError: it is nothing that can be generated.
        """
        kind = self.column.kind
        if kind in _NO_CONDITION:
            self._fail(
                f"holds {_NO_CONDITION[kind]}. Rows cannot be asked for by it; "
                "condition on another column"
            )
        items = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        if not items:
            self._fail("the list of values is empty; give at least one, or leave the column out")
        if kind is ColumnKind.CONSTANT:
            self._check_constant(items)
            return []
        return [self._piece(item) for item in items]

    @property
    def _mass(self) -> ColumnMass:
        if self._found_mass is None:
            raise KeyError(self.column.name)  # every kind that is not refused has one
        return self._found_mass

    @property
    def _form(self) -> NumberForm:
        return self._mass.form

    def _piece(self, item: Any) -> Piece:
        if hasattr(item, "item"):  # a number of numpy
            item = item.item()
        if item is None:
            if not self._choices.nullable:
                self._fail("missing values are asked for, but the column never misses one")
            return Piece(is_missing=True, share=self._mass.missing)
        if isinstance(item, Mapping):
            return self._range(cast("Mapping[str, Any]", item))
        if self.column.kind is ColumnKind.CATEGORICAL:
            return self._category(item)
        if self.column.kind is ColumnKind.BOOLEAN:
            truth = self._truth(item)
            share = self._mass.share_between(int(truth), int(truth))
            return Piece(truth, is_single=True, share=share)
        if self.column.kind in NUMERIC_KINDS:
            number = self._number(item)
            if self.column.kind is ColumnKind.INTEGER and number != int(number):
                self._fail(f"found {item}, expected a whole number")
            return self._single(int(number) if self._is_integer else float(number))
        first, last = self._moments(item)
        return self._single(first) if first == last else self._checked_range(first, last)

    # Values ----------------------------------------------------------------------------------

    def _category(self, item: Any) -> Piece:
        categories = self._form.categories
        text = item if isinstance(item, str) else json.dumps(item, default=str)
        if text not in categories and isinstance(item, int | float):
            # 3 is the category "3" or "3.0"; true is "true" or "True".
            same = [other for other in categories if _spells(other, item)]
            text = same[0] if len(same) == 1 else text
        if text not in categories:
            self._fail(absent_name(text, categories, what="value"))
        index = categories.index(text)
        return Piece(text, is_single=True, share=self._mass.share_between(index, index))

    def _truth(self, item: Any) -> bool:
        text = str(item).strip().casefold()
        for truth, own in ((True, self.column.true_value), (False, self.column.false_value)):
            if own is not None and text == own.casefold():
                return truth
        known = {"true": True, "false": False, "1": True, "0": False}
        if text in known:
            return known[text]
        own = [v for v in (self.column.true_value, self.column.false_value) if v is not None]
        also = f", {own[0]!r} or {own[1]!r}" if own else ""
        return self._fail(f"found {_show(item)}, expected true or false{also}")

    @property
    def _is_integer(self) -> bool:
        return self.column.kind is ColumnKind.INTEGER

    def _number(self, item: Any) -> int | float:
        number: Any = item
        if isinstance(item, str):
            try:
                number = float(item)
                number = int(item) if item.strip().lstrip("+-").isdecimal() else number
            except ValueError:
                pass
        if isinstance(number, bool) or not isinstance(number, int | float):
            self._fail(f"found {_show(item)}, expected a number")
        if not math.isfinite(number):
            self._fail(f"found {item}, expected a finite number")
        return number

    def _moments(self, item: Any) -> tuple[Any, Any]:
        """First and last moment of a date or time; a date among datetimes is a whole day."""
        kind = self.column.kind
        text = item.isoformat() if isinstance(item, datetime.date | datetime.time) else item
        try:
            if kind is ColumnKind.TIME:
                time = datetime.time.fromisoformat(text)
                if time.tzinfo is None:
                    return time, time
                raise ValueError
            try:
                day = datetime.date.fromisoformat(text)
            except ValueError:
                moment = _without_zone(datetime.datetime.fromisoformat(text))
                if kind is ColumnKind.DATETIME:
                    return moment, moment
                if moment.time() != datetime.time():
                    raise
                return moment.date(), moment.date()
            if kind is ColumnKind.DATE:
                return day, day
            return (
                datetime.datetime.combine(day, datetime.time.min),
                datetime.datetime.combine(day, datetime.time.max),
            )
        except (TypeError, ValueError):
            expected = f"expected ISO text such as {_RANGE_EXAMPLES[kind]}"
            return self._fail(f"found {_show(item)}, {expected} ({kind})")

    def _single(self, value: Any) -> Piece:
        """A number, date or time, if the codec can write it."""
        self._check_overlap(value, value)
        low, high = self._bounds(value, value)
        mass = self._mass
        exact = low == high and mass.holds(low, high)
        if exact and not mass.is_integer:
            exact = bool(((mass.low == low) & (mass.high == low)).any())
        if not exact:
            self._fail(
                f"the value {_show(json_value(value))} itself is never generated; ask for a range "
                "around it, with min and max"
            )
        share = mass.share_between(low, high)
        return Piece(value, is_single=True, share=share)

    # Ranges ----------------------------------------------------------------------------------

    def _range(self, item: Mapping[str, Any]) -> Piece:
        kind = self.column.kind
        if kind in (ColumnKind.CATEGORICAL, ColumnKind.BOOLEAN):
            self._fail(
                f"a range is asked for, but the column is {kind}; give a value or a list of values"
            )
        for key in item:
            if key not in ("min", "max"):
                self._fail(f"found the key {_show(key)} in a range, expected min and max")
        low, high = item.get("min"), item.get("max")
        if low is None and high is None:
            self._fail("the range has neither min nor max; give at least one")
        if kind in NUMERIC_KINDS:
            low = None if low is None else self._number(low)
            high = None if high is None else self._number(high)
            if self._is_integer:
                low = None if low is None else math.ceil(low)
                high = None if high is None else math.floor(high)
        else:
            low = None if low is None else self._moments(low)[0]
            high = None if high is None else self._moments(high)[1]
        return self._checked_range(low, high)

    def _checked_range(self, low: Any, high: Any) -> Piece:
        if low is not None and high is not None and low > high:
            self._fail(f"{self._describe(low, high)} is empty: min is above max")
        self._check_overlap(low, high)
        bounds = self._bounds(low, high)
        if not self._mass.holds(*bounds):
            self._fail(f"nothing can be generated in {self._describe(low, high)}; widen the range")
        if self._is_integer:  # as Arrow can hold them
            low = None if low is None else max(low, _INT64[0])
            high = None if high is None else min(high, _INT64[1])
        elif self.column.kind is ColumnKind.FLOAT:
            low = None if low is None else float(low)
            high = None if high is None else float(high)
        return Piece(low, high, share=self._mass.share_between(*bounds))

    def _check_overlap(self, low: Any, high: Any) -> None:
        """Refuse what lies outside everything that can be generated."""
        least, most = self._choices.low, self._choices.high
        if least is None or most is None:
            self._fail("the codec knows no value of this column, so none can be asked for")
        if (high is not None and high < least) or (low is not None and low > most):
            reach = f"{_show(json_value(least))} to {_show(json_value(most))}"
            asked = self._describe(low, high)
            self._fail(f"{asked} cannot be generated; the values reach from {reach}")

    def _bounds(self, low: Any, high: Any) -> tuple[Any, Any]:
        """As numbers of the codec."""
        return (
            self._form.bound(json_value(low), up=True),
            self._form.bound(json_value(high), up=False),
        )

    # Constants and errors --------------------------------------------------------------------

    def _check_constant(self, items: list[Any]) -> None:
        value = self.column.value
        for item in items:
            same = item is None if value is None else item is not None and _spells(value, item)
            if same:
                return
        held = "is always missing" if value is None else f"always holds {value!r}"
        self._fail(f"{held}, so no row can meet the condition; leave the column out")

    @staticmethod
    def _describe(low: Any, high: Any) -> str:
        shown = [_show(json_value(bound)) for bound in (low, high)]
        if low is None:
            return f"the range up to {shown[1]}"
        if high is None:
            return f"the range from {shown[0]}"
        return shown[0] if low == high else f"the range {shown[0]} to {shown[1]}"

    def _fail(self, problem: str) -> NoReturn:
        raise ConfigError(f"conditions: column {self.column.name!r}: {problem}.")


def _spells(text: str, item: Any) -> bool:
    """Whether a text of the table stands for a value of JSON."""
    if isinstance(item, bool):
        return text.casefold() == str(item).casefold()
    if isinstance(item, str):
        return text == item
    try:
        return float(text) == float(item)
    except (TypeError, ValueError):
        return False


def _without_zone(moment: datetime.datetime) -> datetime.datetime:
    """Canonical datetimes have no zone; those of a source that has one are in UTC."""
    if moment.tzinfo is None:
        return moment
    return moment.astimezone(datetime.UTC).replace(tzinfo=None)


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
