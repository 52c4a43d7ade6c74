"""Ranks: exact inversion with more values than segments, mass, order."""

import numpy as np
import pytest

from difflm_core.codec.ranks import MAX_SEGMENTS, RankTransform, distance

CELLS = 64**2


def rng(seed=0):
    return np.random.default_rng(seed)


def back(ranks, values, seed=1):
    ranked = ranks.rank(values, rng(seed))
    assert ((ranked.cell >= 0) & (ranked.cell < ranks.num_cells)).all()
    np.testing.assert_array_equal(ranked.nearest, values)
    return ranks.value(ranked.cell, ranked.residual)


@pytest.mark.parametrize("spread", [10**5, 10**9, 10**14])
def test_integers_come_back_though_segments_hold_several(spread):
    values = np.unique(rng().integers(-spread, spread, 40_000))
    ranks = RankTransform.fit(values, CELLS)
    assert ranks.low.size <= MAX_SEGMENTS
    np.testing.assert_array_equal(back(ranks, values), values)


def test_floats_come_back_closely_though_segments_hold_several():
    values = rng().normal(size=50_000)
    ranks = RankTransform.fit(values, CELLS)
    np.testing.assert_allclose(back(ranks, values), values, rtol=0, atol=1e-12)


def test_wide_integers_come_back_closely_though_segments_hold_several():
    values = rng().integers(-(2**62), 2**62, 40_000)
    made = back(RankTransform.fit(values, CELLS), values)
    assert np.abs(made - values).max() <= 2.0**63 / 8192 * 2.0**-44


def test_many_repeated_values_come_back_exactly():
    values = np.repeat(rng().normal(size=8000), 5)
    np.testing.assert_array_equal(back(RankTransform.fit(values, CELLS), values), values)


def test_values_ascend_with_their_position_and_cells_have_equal_mass():
    values = np.concatenate([rng().lognormal(size=3000), np.full(500, 1.0)])
    ranks = RankTransform.fit(values, CELLS)
    cell = np.repeat(np.arange(CELLS), 4)
    made = ranks.value(cell, np.tile([0.0, 0.25, 0.5, 0.75], CELLS))
    assert (np.diff(made) >= 0).all()
    assert values.min() <= made.min()
    assert made.max() <= values.max()
    counts = np.bincount(ranks.rank(values, rng()).cell // 64, minlength=64)
    np.testing.assert_allclose(counts, values.size / 64, atol=25)


def test_every_category_has_whole_cells_of_its_own():
    values = np.repeat(np.arange(4000), rng().integers(1, 50, 4000))
    values = np.concatenate([values, np.zeros(100_000, dtype=np.int64)])
    ranks = RankTransform.of_categories(values, CELLS)
    assert int(ranks.edges[-1]) == CELLS
    assert (np.diff(ranks.edges) >= 1).all()
    cell = ranks.rank(values, rng()).cell
    for residual in (0.0, 0.5, np.nextafter(1.0, 0.0)):
        np.testing.assert_array_equal(ranks.value(cell, np.full(cell.size, residual)), values)


def test_distances_do_not_overflow():
    low, high = np.array([-(2**63), 5, 7]), np.array([2**63 - 1, 7, 5])
    np.testing.assert_array_equal(distance(low, high), [2.0**64, 2, 2])
    np.testing.assert_array_equal(distance(np.array([1.5]), np.array([-1.0])), [2.5])
