"""Random schemas and tables for the codec's property tests."""

import datetime as dt

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from difflm_core.data.schema import DOCUMENT_KINDS, Column, ColumnKind, Schema

K = ColumnKind

texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", " ", "a\nb", "🙂🙂", "\ufffd", "\x00", "naïve", 'say "hi"', "日本語", "e\u0301"]
)
names = texts.filter(lambda name: name.strip() != "")
VALUES = {
    K.CATEGORICAL: texts | st.integers(0, 99).map(str) | st.sampled_from(["nan", "inf", "1_0"]),
    K.INTEGER: st.integers(-(2**63), 2**63 - 1) | st.integers(-50, 50),
    K.BOOLEAN: st.booleans(),
    K.DATE: st.dates(),
    K.TIME: st.times() | st.integers(0, 23).map(dt.time),
    K.DATETIME: st.datetimes() | st.dates().map(lambda day: dt.datetime(*day.timetuple()[:3])),
    K.TEXT: texts,
    K.IDENTIFIER: st.integers(1, 10**6).map(lambda number: f"ID-{number:07d}"),
}


@st.composite
def _numbers(draw):
    """Decimals of a float column, and its values."""
    decimals = draw(st.none() | st.integers(0, 6) | st.just(18))
    if decimals is None:
        return None, st.floats(-1e300, 1e300) | st.floats(-10, 10)
    scale = 10**decimals
    limit = 10**24 if decimals == 18 else 10**9  # more units than float64 can count
    return decimals, st.integers(-limit, limit).map(lambda units: units / scale)


@st.composite
def columns(draw, name, num_rows):
    """A column and its values."""
    kind = draw(st.sampled_from([kind for kind in K if kind not in (K.CONSTANT, *DOCUMENT_KINDS)]))
    fields = {}
    if kind is K.FLOAT:
        fields["decimals"], values = draw(_numbers())
    else:
        values = VALUES[kind]
    if kind is K.IDENTIFIER:
        fields["pattern"] = draw(st.sampled_from(["ID-{from 5, 7 digits}", "{uuid4}", "[a-f]{9}"]))
    nullable = draw(st.booleans())
    if draw(st.booleans()):  # heavy repetition
        values = st.sampled_from(draw(st.lists(values, min_size=1, max_size=4)))
    if nullable:
        values = values | st.none()
    cells = draw(st.lists(values, min_size=num_rows, max_size=num_rows))
    return Column(name=name, kind=kind, nullable=nullable, **fields), cells


@st.composite
def tables(draw, max_rows=50):
    """A schema and a canonical table of it."""
    num_rows = draw(st.integers(1, max_rows))
    found = [
        draw(columns(name, num_rows))
        for name in draw(st.lists(names, min_size=1, max_size=4, unique=True))
    ]
    fixed = draw(st.sampled_from([None, "same", ""]))
    found.append((Column(name="fixed one", kind=K.CONSTANT, value=fixed), [fixed] * num_rows))
    if all(column.kind in (K.IDENTIFIER, K.CONSTANT) for column, _ in found):
        found.append((Column(name=" learned ", kind=K.BOOLEAN), [True] * num_rows))
    schema = Schema(columns=tuple(column for column, _ in found))
    arrays = [pa.array(cells, column.arrow_type) for column, cells in found]
    return schema, pa.Table.from_arrays(arrays, schema=schema.arrow_schema)


def one_column(kind, values, **fields):
    """Schema and table of one column, called x."""
    column = Column(name="x", kind=kind, **fields)
    schema = Schema(columns=(column,))
    table = pa.table({"x": pa.array(values, column.arrow_type)}, schema=schema.arrow_schema)
    return schema, table


def random_ids(grammar, num_rows, generator):
    """Token rows of a grammar, each slot uniform over what it allows."""
    ids = np.zeros((num_rows, len(grammar)), dtype=np.int64)
    for t in range(len(grammar)):
        chosen = grammar.start[t] + generator.integers(0, grammar.size[t], num_rows)
        if t:
            before = ids[:, t - 1]
            live = (before >= grammar.gate_start[t]) & (before < grammar.gate_stop[t])
            chosen = np.where(live, chosen, grammar.idle[t])
        ids[:, t] = chosen
    return ids
