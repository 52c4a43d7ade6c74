"""Privacy: copies, distance to the closest record, and a membership attack.

Every figure stands beside the same figure of a real holdout: rows that were never trained on are
the definition of a harmless neighbour. Distances are those of `neighbours.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pandas import util as pandas_util
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from difflm_core.data.schema import ColumnKind, Schema
from difflm_core.evaluation.neighbours import Encoder, Points, nearest
from difflm_core.evaluation.results import (
    Copies,
    Distances,
    FigureData,
    Membership,
    NotComputableError,
    NotComputed,
    Privacy,
    TextCopies,
)
from difflm_core.evaluation.tables import Prepared, pc, seeded_rows, to_labels, to_numbers

MIN_ROWS = 10
MIN_ATTACK_ROWS = 50
MAX_ATTACK_ROWS = 10_000
NEAR_QUANTILE = 0.05
NUM_BINS = 40

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]

hash_array: Any = pandas_util.hash_array


def hash_rows(table: pa.Table, schema: Schema) -> Hashes:
    """64-bit hash of each row over all columns but identifiers and constants."""
    total = np.zeros(table.num_rows, dtype=np.uint64)
    for column in schema.columns:
        if column.kind in (ColumnKind.IDENTIFIER, ColumnKind.CONSTANT):
            continue
        values = table.column(column.name)
        if column.arrow_type == pa.string() or column.kind is ColumnKind.BOOLEAN:
            labels = pc.dictionary_encode(to_labels(values)).combine_chunks()
            words = hash_array(labels.dictionary.to_numpy(zero_copy_only=False))
            codes = np.array(pc.fill_null(labels.indices, -1).to_numpy(), dtype=np.int64)
            hashed = np.append(words, np.uint64(0x9E3779B97F4A7C15))[codes]
        else:
            hashed = hash_array(to_numbers(values) + 0.0)  # + 0.0: -0.0 becomes 0.0
        total = (total ^ hashed) * np.uint64(0x100000001B3) + np.uint64(0x2545F4914F6CDD1D)
        total ^= total >> np.uint64(29)
    return total


def count_copies(
    synthetic: pa.Table, train: pa.Table, test: pa.Table, schema: Schema
) -> tuple[int, int, int]:
    """Count rows that occur in the training table.

    Returns:
        Synthetic rows, of these the ones that occur once in training and nowhere in the holdout
        (a common combination of categories repeats by itself; these do not), and holdout rows.
    """
    made, real, held = (hash_rows(table, schema) for table in (synthetic, train, test))
    copied = np.isin(made, real)
    unique, counts = np.unique(real, return_counts=True)
    telling = np.isin(made, unique[counts == 1]) & ~np.isin(made, held)
    return int(copied.sum()), int(telling.sum()), int(np.isin(held, real).sum())


def privacy(
    synthetic: pa.Table,
    train: pa.Table,
    test: pa.Table,
    prepared: Prepared,
    seed: int,
    figures: FigureData,
) -> Privacy:
    """All privacy figures; copies over every row, distances over the prepared samples."""
    schema = prepared.schema
    exact, telling, held = count_copies(synthetic, train, test, schema)
    near: tuple[float, float, float] | None = None
    distances: Distances | NotComputed
    membership: Membership | NotComputed
    try:
        encoder = Encoder(prepared, prepared.train)
        distances, near = _distances(prepared, encoder, seed, figures)
        membership = _attack(prepared, encoder, seed)
    except NotComputableError as reason:
        distances = membership = NotComputed(str(reason))
    copies = Copies(
        exact_count=exact,
        exact_rate=exact / synthetic.num_rows,
        holdout_exact_count=held,
        holdout_exact_rate=held / test.num_rows,
        exact_count_new=telling,
        near_rate=near[0] if near else None,
        holdout_near_rate=near[1] if near else None,
        near_threshold=near[2] if near else None,
    )
    texts = tuple(
        _text_copies(column.name, synthetic, train, test)
        for column in schema.columns
        if column.kind is ColumnKind.TEXT
    )
    return Privacy(copies, distances, membership, texts)


def _distances(
    prepared: Prepared, encoder: Encoder, seed: int, figures: FigureData
) -> tuple[Distances, tuple[float, float, float]]:
    size = min(prepared.train.num_rows, prepared.test.num_rows)
    if not prepared.used:
        raise NotComputableError("no numerical or categorical column")
    if min(size, prepared.synthetic.num_rows) < MIN_ROWS:
        raise NotComputableError(f"fewer than {MIN_ROWS} synthetic, training or test rows")
    measured = encoder.measures()
    synthetic, test = encoder.encode(prepared.synthetic), encoder.encode(prepared.test)
    train = encoder.encode(prepared.train)
    reference = train.take(seeded_rows(len(train), size, seed))
    held = test.take(seeded_rows(len(test), size, seed))
    to_train = nearest(synthetic, reference, measured)[0]
    to_test = nearest(synthetic, held, measured)[0]
    baseline = nearest(held, reference, measured)[0]
    closer = np.where(
        to_train[:, 0] == to_test[:, 0], 0.5, (to_train[:, 0] < to_test[:, 0]).astype(float)
    )
    low, high = wilson(float(closer.mean()), len(closer), len(held))
    threshold = float(np.quantile(baseline[:, 0], NEAR_QUANTILE))
    _histogram(figures, to_train[:, 0], to_test[:, 0], baseline[:, 0])
    result = Distances(
        synthetic_to_train_median=float(np.median(to_train[:, 0])),
        synthetic_to_test_median=float(np.median(to_test[:, 0])),
        test_to_train_median=float(np.median(baseline[:, 0])),
        synthetic_to_train_p5=float(np.quantile(to_train[:, 0], NEAR_QUANTILE)),
        test_to_train_p5=threshold,
        share_closer_to_train=float(closer.mean()),
        share_low=low,
        share_high=high,
        nndr_synthetic_median=_ratio(to_train),
        nndr_test_median=_ratio(baseline),
        num_reference_rows=size,
        num_query_rows=len(synthetic),
    )
    near = float(np.mean(to_train[:, 0] <= threshold))
    near_baseline = float(np.mean(baseline[:, 0] <= threshold))
    return result, (near, near_baseline, threshold)


def wilson(share: float, num_queries: int, num_reference: int) -> tuple[float, float]:
    """95 % Wilson interval of a share.

    The synthetic rows are not the only source of chance: which real rows are the reference is
    another. The smaller of both numbers is therefore taken as the sample size.
    """
    n = max(1, min(num_queries, num_reference))
    z = float(norm.ppf(0.975))
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float(max(0.0, center - half)), float(min(1.0, center + half))


def _ratio(pairs: Floats) -> float:
    """Median ratio of the nearest to the second nearest distance (1 where both are 0)."""
    usable = np.isfinite(pairs[:, 1])
    if not usable.any():
        return float("nan")
    nearest_two = pairs[usable]
    positive = nearest_two[:, 1] > 0
    ratio = np.where(positive, nearest_two[:, 0] / np.where(positive, nearest_two[:, 1], 1.0), 1.0)
    return float(np.median(ratio))


def _histogram(figures: FigureData, *series: Floats) -> None:
    top = float(np.quantile(np.concatenate(series), 0.995)) or 1.0
    figures.dcr_edges = np.linspace(0.0, top, NUM_BINS + 1)
    names = ("synthetic to training", "synthetic to holdout", "holdout to training")
    for name, values in zip(names, series, strict=True):
        counts = np.histogram(np.minimum(values, top), figures.dcr_edges)[0]
        figures.dcr_counts[name] = counts / max(1, len(values))


def _attack(prepared: Prepared, encoder: Encoder, seed: int) -> Membership | NotComputed:
    """Tell training rows from holdout rows, given the synthetic rows.

    Two attacks; the stronger is reported. Distance: the nearer a synthetic row, the likelier a
    member (Chen et al. 2020, GAN-Leaks). Density ratio: the same, relative to the distance to
    reference rows that the attacker knows (van Breugel et al. 2023, DOMIAS, with nearest-
    neighbour densities); half of the holdout serves as that reference.
    """
    measured = encoder.measures()
    held = encoder.encode(prepared.test)
    order = np.random.default_rng([seed, 11]).permutation(len(held))
    half = len(held) // 2
    size = min(half, prepared.train.num_rows, MAX_ATTACK_ROWS)
    if size < MIN_ATTACK_ROWS:
        return NotComputed(
            f"{len(held)} holdout rows, at least {2 * MIN_ATTACK_ROWS} are needed for an attack"
        )
    outsiders, known = held.take(order[:size]), held.take(order[half:])
    train = encoder.encode(prepared.train)
    members = train.take(seeded_rows(len(train), size, seed + 3))
    synthetic = encoder.encode(prepared.synthetic)
    truth = np.repeat([1, 0], [size, size])
    to_synthetic = _closest(members, outsiders, synthetic, measured)
    to_known = _closest(members, outsiders, known, measured)
    attacks = {"distance": -to_synthetic, "density ratio": _log_ratio(to_known, to_synthetic)}
    aucs = {name: float(roc_auc_score(truth, score)) for name, score in attacks.items()}
    best = max(aucs, key=lambda name: aucs[name])
    false_rate, true_rate, _ = roc_curve(truth, attacks[best])
    half_width = 1.96 * _auc_deviation(aucs[best], size, size)
    return Membership(
        auc=aucs[best],
        auc_low=max(0.0, aucs[best] - half_width),
        auc_high=min(1.0, aucs[best] + half_width),
        tpr_at_1_percent_fpr=float(np.interp(0.01, false_rate, true_rate)),
        attack=best,
        distance_auc=aucs["distance"],
        density_auc=aucs["density ratio"],
        num_members=size,
        num_non_members=size,
    )


def _closest(
    members: Points, outsiders: Points, reference: Points, measured: NDArray[np.bool_]
) -> Floats:
    parts = [nearest(rows, reference, measured)[0][:, 0] for rows in (members, outsiders)]
    return np.concatenate(parts)


def _log_ratio(to_known: Floats, to_synthetic: Floats) -> Floats:
    floor = 1e-4  # a copy at distance 0 must not make every ratio infinite
    return np.log(to_known + floor) - np.log(to_synthetic + floor)


def _auc_deviation(auc: float, num_positive: int, num_negative: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982)."""
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (
        auc * (1 - auc)
        + (num_positive - 1) * (first - auc**2)
        + (num_negative - 1) * (second - auc**2)
    )
    return float(np.sqrt(max(0.0, spread) / (num_positive * num_negative)))


def _text_copies(name: str, synthetic: pa.Table, train: pa.Table, test: pa.Table) -> TextCopies:
    known = pc.unique(train.column(name).drop_null())
    rates: list[float] = []
    for table in (synthetic, test):
        values = table.column(name).drop_null()
        copied = pc.sum(pc.is_in(values, value_set=known)).as_py() or 0
        rates.append(copied / len(values) if len(values) else 0.0)
    return TextCopies(name, rates[0], rates[1])
