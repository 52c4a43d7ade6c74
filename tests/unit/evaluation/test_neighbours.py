import numpy as np
import pyarrow as pa
import pytest

from difflm_core.data.schema import ColumnKind
from difflm_core.evaluation import neighbours
from difflm_core.evaluation.neighbours import Encoder, nearest
from difflm_core.evaluation.tables import Prepared, prepare
from tests.unit.evaluation.people import make_schema


def make_mixed(num_rows: int, seed: int, num_codes: int = 300) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=num_rows)
    x[rng.random(num_rows) < 0.1] = np.nan
    return pa.table(
        {
            "x": pa.array(x, from_pandas=True),
            "y": pa.array(rng.integers(0, 5, num_rows), pa.int64()),
            "c": pa.array(rng.choice(["a", "b", None], num_rows).tolist(), pa.string()),
            "wide": pa.array([str(v) for v in rng.integers(0, num_codes, num_rows)]),
        }
    )


def prepared(seed: int = 0) -> Prepared:
    kinds = {
        "x": ColumnKind.FLOAT,
        "y": ColumnKind.INTEGER,
        "c": ColumnKind.CATEGORICAL,
        "wide": ColumnKind.CATEGORICAL,
    }
    return prepare(
        make_mixed(60, seed),
        make_mixed(400, seed + 1),
        make_mixed(50, seed + 2),
        make_schema(kinds),
    )


def brute_force(p: Prepared, queries, reference, exclude_self=False):
    """The definition of the distance, row by row."""
    ranked = {}
    for name in p.numerical:
        known = np.sort(p.train.numbers[name][~np.isnan(p.train.numbers[name])])

        def rank(v, known=known):
            below, up_to = np.sum(known < v), np.sum(known <= v)
            outside = -0.5 if v < known[0] else 0.5 if v > known[-1] else 0.0
            return ((below + up_to) / 2 + outside) / len(known)

        ranked[name] = [
            [None if np.isnan(v) else rank(v) for v in split.numbers[name]]
            for split in (queries, reference)
        ]
    result = np.zeros((queries.num_rows, reference.num_rows))
    for i in range(queries.num_rows):
        for j in range(reference.num_rows):
            total = 0.0
            for name in p.numerical:
                a, b = ranked[name][0][i], ranked[name][1][j]
                if (a is None) != (b is None):
                    total += 1.0 + ((a if a is not None else b) - 0.5) ** 2
                elif a is not None:
                    total += (a - b) ** 2
            for name in p.categorical:
                total += queries.codes[name][i] != reference.codes[name][j]
            result[i, j] = np.sqrt(total / len(p.used))
    if exclude_self:
        np.fill_diagonal(result, np.inf)
    return np.sort(result, axis=1)[:, :2]


@pytest.mark.parametrize("tiles", [(512, 4096), (7, 33)])
def test_nearest_equals_brute_force(tiles, monkeypatch) -> None:
    monkeypatch.setattr(neighbours, "QUERY_TILE", tiles[0])
    monkeypatch.setattr(neighbours, "REFERENCE_TILE", tiles[1])
    p = prepared()
    encoder = Encoder(p, p.train)
    found, _ = nearest(encoder.encode(p.synthetic), encoder.encode(p.train), encoder.measures())
    np.testing.assert_allclose(found, brute_force(p, p.synthetic, p.train), atol=1e-5)


def test_a_row_is_not_its_own_neighbour() -> None:
    p = prepared(seed=5)
    encoder = Encoder(p, p.train)
    points = encoder.encode(p.test)
    found, indices = nearest(points, points, encoder.measures(), exclude_self=True)
    np.testing.assert_allclose(found, brute_force(p, p.test, p.test, True), atol=1e-5)
    assert not np.any(indices[:, 0] == np.arange(len(points)))


def test_a_copy_has_distance_exactly_zero() -> None:
    p = prepared()
    encoder = Encoder(p, p.train)
    points = encoder.encode(p.train)
    found, _ = nearest(points, points, encoder.measures())
    assert np.all(found[:, 0] == 0.0)


def test_one_reference_row_leaves_the_second_neighbour_open() -> None:
    p = prepared()
    encoder = Encoder(p, p.train)
    one = encoder.encode(p.train.take(np.array([0])))
    found, indices = nearest(encoder.encode(p.test), one, encoder.measures())
    assert np.all(np.isfinite(found[:, 0]))
    assert np.all(np.isinf(found[:, 1]))
    assert np.all(indices[:, 1] == -1)
