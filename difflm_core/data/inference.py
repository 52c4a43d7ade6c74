"""Infer the schema of a table in one pass with bounded memory, by one reader or by many.

The pass fills a `TableProfile`, merged where several workers read; the decisions below read it,
from the strongest evidence to the weakest: constant, number, truth value, date, identifier,
category, free text.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import pyarrow as pa

from difflm_core.data.column_rules import (
    Decision,
    category_missing,
    decide_identifier,
    decide_temporal,
    integer_identifier,
    is_decorated_number,
    typed_missing,
    unmistakable_numbers,
)
from difflm_core.data.profile import ColumnProfile, TableProfile, spellings_by_count
from difflm_core.data.readers import Source, SourceLike, open_source
from difflm_core.data.schema import (
    NUMERIC_KINDS,
    TEMPORAL_KINDS,
    Column,
    ColumnKind,
    NumberStyle,
    Schema,
    check_names_exist,
)
from difflm_core.data.spellings import TRUTH_PAIRS, describe_spelling
from difflm_core.data.storage_types import TEXT_STORAGE, storage_name
from difflm_core.errors import DataError, SchemaError

MAX_CATEGORIES = 5_000
MIN_REPEATS = 5
FEW_VALUES = 50
TEXT_WORDS = 5
TEXT_CHARACTERS = 60


def infer_schema(
    source: SourceLike | Source,
    *,
    target: str | None = None,
    declared: Schema | None = None,
    missing_values: Seq[str] = (),
    **reader_options: Any,
) -> Schema:
    """Infer the schema of a table.

    Args:
        source: Path, glob, directory, URI, DataFrame, Arrow table, or an opened `Source`.
        target: Column that a downstream model predicts.
        declared: What is known already (a partial schema, or one loaded from SDV metadata). Every
            field that it sets is kept; the data supplies the others, and the other columns.
        missing_values: Spellings that mean "missing" in every column.
        **reader_options: Passed to `open_source`.

    Returns:
        A schema with one column for each column of the source, in its order.

    Raises:
        DataError: the data cannot be read, is empty, has infinite numbers, or a column whose type
            cannot be decided.
        SchemaError: the target or a declared column is not in the data.
    """
    opened = source if isinstance(source, Source) else open_source(source, **reader_options)
    profile = begin_profile(opened, target, declared, missing_values)
    for batch in opened.batches():
        profile.add(batch)
    return decide_schema(opened, profile, target=target, declared=declared)


def begin_profile(
    source: Source, target: str | None, declared: Schema | None, missing_values: Seq[str] = ()
) -> TableProfile:
    """The empty profile of a source, or of a piece of one; arguments as of `infer_schema`.

    Raises:
        SchemaError: the target or a declared column is not in the data.
    """
    target = _target(target, declared)
    if target is not None:
        check_names_exist([target], source.names, what="target column", source=source.label)
    known = _by_name(declared)
    check_names_exist(known, source.names, what="declared column", source=source.label)
    missing = {name: frozenset(missing_values) for name in source.names}
    for name, column in known.items():
        missing[name] |= frozenset(column.missing_values)
    fields = [source.schema.field(name) for name in source.names]
    return TableProfile(pa.schema(fields), missing)


def decide_schema(
    source: Source, profile: TableProfile, *, target: str | None, declared: Schema | None
) -> Schema:
    """Decide what the columns of a profiled source are; arguments as of `infer_schema`.

    Raises:
        DataError: the table is empty, has infinite numbers, or a column whose type cannot be
            decided.
        SchemaError: a declared column does not fit its values.
    """
    if not profile.num_rows:
        raise DataError(
            f"{source.label}: the table has no rows; expected at least one data row "
            "(is the file empty, or does it have only a header?)"
        )
    known = _by_name(declared)
    columns = [
        _column(column, known.get(column.name), source.label, untyped=source.is_untyped)
        for column in profile.columns
    ]
    return Schema(columns=tuple(columns), target=_target(target, declared))


def _target(target: str | None, declared: Schema | None) -> str | None:
    return target if target is not None or declared is None else declared.target


def _by_name(declared: Schema | None) -> dict[str, Column]:
    return {column.name: column for column in declared.columns} if declared else {}


def _column(
    profile: ColumnProfile, declared: Column | None, label: str, *, untyped: bool
) -> Column:
    """Decide about one column; what is declared wins."""
    if declared is not None:
        decision = _declared_decision(profile, declared)
    else:
        decision = _decide(profile, label)
    fields = _fields(profile, decision, untyped=untyped)
    if declared is not None:
        fields |= {name: getattr(declared, name) for name in declared.model_fields_set}
    return Column(**fields)


def _declared_decision(profile: ColumnProfile, declared: Column) -> Decision:
    kind = declared.kind
    if kind in TEMPORAL_KINDS and declared.format is None and profile.is_text:
        found = decide_temporal(profile)
        if found is None:
            raise SchemaError(
                f"column {profile.name!r}: declared as {kind}, but no one date format fits its "
                "values; give 'format' (strptime), or declare it categorical"
            )
        return Decision(kind, found.missing, format=found.format)
    if kind is ColumnKind.IDENTIFIER and declared.pattern is None:
        found = decide_identifier(profile, forced=True)
        if found is not None:
            return found
    missing = typed_missing(profile)
    if kind is ColumnKind.BOOLEAN:
        return _boolean(profile, missing) or Decision(kind, missing)
    if kind in (*NUMERIC_KINDS, *TEMPORAL_KINDS):
        return Decision(kind, missing)
    return Decision(kind, category_missing(profile))


def _decide(profile: ColumnProfile, label: str) -> Decision:
    """Kind of a column from the evidence alone."""
    if profile.num_infinite and (profile.num_integer or profile.num_decimal or not profile.is_text):
        raise DataError(
            f"{label}, column {profile.name!r}: found {profile.num_infinite} infinite values "
            "(inf); expected finite numbers or missing; replace them, or declare 'inf' and '-inf' "
            "in missing_values of the column"
        )
    if profile.num_present == 0:
        return Decision(ColumnKind.CONSTANT, [], note="every value is missing")
    num_missing = profile.num_rows - profile.num_present
    if profile.values.num_distinct == 1 and num_missing == 0:
        return Decision(ColumnKind.CONSTANT, [])
    if profile.is_dictionary:
        return Decision(ColumnKind.CATEGORICAL, category_missing(profile))
    if not profile.is_text:
        return _decide_typed(profile)
    missing = typed_missing(profile)
    unknown = profile.num_other - sum((profile.others or {}).get(text, 0) for text in missing)
    numbers = profile.num_integer + profile.num_decimal
    if numbers and not unknown and not profile.num_padded and not profile.num_big:
        return _number(profile, missing)
    if not numbers and profile.num_other:
        found = _boolean(profile, missing) or decide_temporal(profile)
        if found is not None:
            return found
    if unmistakable_numbers(profile, unknown):
        spellings = [
            text for text in spellings_by_count(profile.others or {}) if text not in missing
        ]
        raise DataError(
            f"{label}, column {profile.name!r}: found {numbers} numbers and {unknown} cells that "
            f"are not (such as {describe_spelling(spellings[0])}); expected one type; "
            "correct them, list their spellings in missing_values, or declare the column "
            "categorical in the schema"
        )
    return _decide_strings(profile)


def _decide_typed(profile: ColumnProfile) -> Decision:
    storage = storage_name(profile.storage)
    if storage == "bool":
        return Decision(ColumnKind.BOOLEAN, [])
    if storage.startswith("date"):
        return Decision(ColumnKind.DATE, [])
    if storage.startswith("timestamp"):
        return Decision(ColumnKind.DATETIME, [])
    if storage.startswith("time"):
        return Decision(ColumnKind.TIME, [])
    if profile.num_big:
        return _decide_strings(profile)
    return _number(profile, spellings_by_count(profile.num_declared_missing))


def _number(profile: ColumnProfile, missing: list[str]) -> Decision:
    """Integer, float, whole-number identifier, or date written as YYYYMMDD."""
    decimals = profile.decimals
    if decimals.has_fraction or profile.has_unsafe_integers or decimals.has_exponent:
        return Decision(ColumnKind.FLOAT, missing)
    if profile.is_text and len(decimals.spelled - {0}) > 1:
        return Decision(ColumnKind.FLOAT, missing)
    if profile.num_decimal == 0 and profile.all_compact_dates and profile.values.num_distinct >= 5:
        return Decision(ColumnKind.DATE, missing, format="%Y%m%d")
    if profile.num_decimal == 0 or not profile.is_text:
        found = integer_identifier(profile, missing)
        if found is not None:
            return found
    return Decision(ColumnKind.INTEGER, missing)


def _boolean(profile: ColumnProfile, missing: list[str]) -> Decision | None:
    """Two spellings that are the two halves of a truth pair (in any letter case)."""
    if profile.others is None:
        return None
    spellings = [text for text in spellings_by_count(profile.others) if text not in missing]
    for true_word, false_word in TRUTH_PAIRS:
        if {text.lower() for text in spellings} == {true_word, false_word}:
            true_value = next(text for text in spellings if text.lower() == true_word)
            false_value = next(text for text in spellings if text.lower() == false_word)
            note = None if len(spellings) == 2 else f"{len(spellings)} spellings of two values"
            return Decision(ColumnKind.BOOLEAN, missing, truth=(true_value, false_value), note=note)
    return None


def _decide_strings(profile: ColumnProfile) -> Decision:
    """Identifier, category or free text."""
    found = decide_identifier(profile)
    if found is not None:
        return found
    missing = category_missing(profile)
    distinct, present = profile.values.num_distinct, profile.num_present
    others = max(1, profile.num_other)
    words, characters = profile.num_words / others, profile.num_characters / others
    is_prose = words >= TEXT_WORDS or characters >= TEXT_CHARACTERS
    if is_prose and distinct > 0.5 * present and distinct > 5:
        return Decision(ColumnKind.TEXT, missing)
    repeats = present / max(1, distinct)
    if distinct <= FEW_VALUES or (distinct <= MAX_CATEGORIES and repeats >= MIN_REPEATS):
        kept = [
            text
            for text in spellings_by_count(profile.others or {})
            if text in typed_missing(profile) and text not in missing
        ]
        note = None
        if kept:
            shown = ", ".join(repr(text) for text in kept[:3])
            note = f"{shown} kept as a category; list it in missing_values if it means missing"
        return Decision(ColumnKind.CATEGORICAL, missing, note=note)
    note = None if is_prose else f"about {distinct} different values: too many for categories"
    if is_decorated_number(profile):
        note = "looks like numbers with separators or units: plain numbers would be learned better"
    return Decision(ColumnKind.TEXT, missing, note=note)


def _fields(profile: ColumnProfile, decision: Decision, *, untyped: bool) -> dict[str, Any]:
    """Fields of the column that a decision leads to."""
    kind = decision.kind
    counted = dict(profile.num_declared_missing)
    for text in decision.missing:
        counted.setdefault(text, (profile.others or {}).get(text, 0))
    num_missing = profile.num_null + profile.num_empty + sum(counted.values())
    spellings = spellings_by_count(counted)
    if spellings and profile.num_null + profile.num_empty > max(counted.values()):
        spellings.insert(0, "")
    fields: dict[str, Any] = {
        "name": profile.name,
        "kind": kind,
        "storage": TEXT_STORAGE if untyped else storage_name(profile.storage),
        "nullable": num_missing > 0,
        "missing_values": tuple(spellings),
        "distinct": _num_distinct(profile, decision),
        "note": decision.note,
    }
    if kind in NUMERIC_KINDS:
        fields |= _number_form(profile, kind)
    if kind in TEMPORAL_KINDS:
        fields["format"] = decision.format
    if kind is ColumnKind.IDENTIFIER:
        fields["pattern"] = decision.pattern
    if kind is ColumnKind.BOOLEAN and decision.truth is not None:
        fields["true_value"], fields["false_value"] = decision.truth
    if kind is ColumnKind.CONSTANT:
        fields["value"] = _constant_value(profile)
        fields["nullable"] = fields["value"] is None
    return fields


def _num_distinct(profile: ColumnProfile, decision: Decision) -> int:
    """Distinct values that are not missing; an estimate never exceeds the number of rows."""
    others = profile.others or {}
    missing = [others[text] for text in decision.missing if text in others]
    if profile.values.counts is None:
        return min(profile.values.num_distinct, profile.num_present - sum(missing))
    return len(profile.values.counts) - len(missing)


def _constant_value(profile: ColumnProfile) -> str | None:
    values = profile.values.sample
    return values[0] if values and profile.num_present else None


def _number_form(profile: ColumnProfile, kind: ColumnKind) -> dict[str, Any]:
    """Decimals and spelling of a numeric column."""
    decimals = profile.decimals
    if kind is ColumnKind.INTEGER:
        if profile.is_text and profile.num_decimal:
            return {"decimals": max(decimals.spelled), "number_style": "fixed"}
        return {}
    form: dict[str, Any] = {"decimals": decimals.most}
    if not profile.is_text:
        return form
    style: NumberStyle = "point"
    if decimals.has_plain_integral or 0 in decimals.spelled:
        style = "plain"
    elif len(decimals.spelled) == 1 and not decimals.has_exponent and max(decimals.spelled) > 1:
        style = "fixed"
    return form | {"number_style": style}
