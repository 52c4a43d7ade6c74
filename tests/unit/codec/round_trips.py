"""Encoding and decoding, and what must come back."""

import numpy as np
import pyarrow as pa

from difflm_core.data.schema import Column, ColumnKind, Schema

K = ColumnKind


def rng(seed=0):
    return np.random.default_rng(seed)


def round_trip(codec, table, seed=0):
    batch = codec.encode(table, rng(seed))
    assert codec.grammar.accepts(batch.ids).all()
    assert ((batch.residuals >= 0) & (batch.residuals < 1)).all()
    decoded = codec.decode(batch.ids, batch.residuals)
    assert decoded.valid.all()
    assert not decoded.rejections
    return decoded.records


def tolerance(numbers, whole):
    """1e-12 of the distance to the neighbours that are ranked, and two units in the last place.

    Values with a token of their own come back exactly.
    """
    ranked = np.setdiff1d(numbers, whole)
    if not ranked.size:
        return 0.0
    gaps = np.diff(ranked, prepend=ranked[0], append=ranked[-1])
    index = np.minimum(np.searchsorted(ranked, numbers), ranked.size - 1)
    near = 1e-12 * np.maximum(gaps[:-1], gaps[1:])[index] + 2 * np.spacing(np.abs(numbers))
    return np.where(np.isin(numbers, whole), 0.0, near)


def assert_same(decoded, table, codec):
    schema = codec.schema
    assert decoded.schema == schema.arrow_schema
    for column in schema.columns:
        real = table.column(column.name).combine_chunks()
        made = decoded.column(column.name)
        if column.kind is K.IDENTIFIER:
            assert made.null_count == len(made)
        elif column.kind is K.FLOAT and column.decimals in (None, 18):
            assert made.is_null().equals(real.is_null())
            x, y = (np.asarray(array.drop_null()) for array in (real, made))
            if x.size:
                assert (np.abs(x - y) <= tolerance(x, codec.fields[column.name].whole)).all()
        else:
            assert made.equals(real)


def big_table(num_rows=5000):
    g = rng(1)
    ints = g.integers(-(2**63), 2**63 - 1, num_rows, endpoint=True)
    ints[:2] = -(2**63), 2**63 - 1
    micros = g.integers(-(6 * 10**16), 2 * 10**17, num_rows)
    columns = {
        "wide": (K.INTEGER, pa.array(ints), {}),
        "narrow": (K.INTEGER, pa.array(g.integers(0, 3000, num_rows)), {}),
        "heavy": (K.INTEGER, pa.array(np.where(g.random(num_rows) < 0.9, 0, ints >> 40)), {}),
        "price": (K.FLOAT, pa.array(np.round(g.lognormal(3, 2, num_rows), 2)), {"decimals": 2}),
        "real": (K.FLOAT, pa.array(g.lognormal(0, 9, num_rows)), {}),
        "city": (K.CATEGORICAL, pa.array([f"city {i}" for i in range(num_rows)]), {}),
        "zip": (K.CATEGORICAL, pa.array([f"{i:05d}" for i in g.zipf(1.2, num_rows) % 9999]), {}),
        "moment": (K.DATETIME, pa.array(micros, pa.timestamp("us")), {}),
        "clock": (K.TIME, pa.array(g.integers(0, 86_400, num_rows) * 10**6, pa.time64("us")), {}),
        "day": (K.DATE, pa.array(g.integers(-719162, 2932896, num_rows).astype("i4")), {}),
    }
    schema = Schema(
        columns=tuple(Column(name=n, kind=kind, **more) for n, (kind, _, more) in columns.items())
    )
    arrays = [
        array.cast(c.arrow_type)
        for c, (_, array, _) in zip(schema.columns, columns.values(), strict=True)
    ]
    return schema, pa.Table.from_arrays(arrays, schema=schema.arrow_schema)
