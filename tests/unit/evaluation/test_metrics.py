import numpy as np
import pyarrow as pa
import pytest
from sdmetrics.column_pairs import ContingencySimilarity
from sdmetrics.reports.single_table.quality_report import QualityReport

from difflm_core.data.schema import ColumnKind
from difflm_core.evaluation.detection import detect
from difflm_core.evaluation.fidelity import column_fidelity, mean_error, trend_errors
from difflm_core.evaluation.paper import GRID, add_paper_scores
from difflm_core.evaluation.precision_recall import precision_recall
from difflm_core.evaluation.privacy import count_copies, hash_rows, wilson
from difflm_core.evaluation.results import NotComputableError
from difflm_core.evaluation.tables import Prepared, Role, decide_roles, prepare
from difflm_core.evaluation.utility import find_problem, macro_auc, strict_utility
from difflm_core.evaluation.validity import diversity, validity
from tests.unit.evaluation.people import PEOPLE, make_people, make_schema, shuffle_columns


def prepare_people(synthetic: pa.Table | None = None, rows: int = 400) -> Prepared:
    train = make_people(rows, 1)
    made = train if synthetic is None else synthetic
    return prepare(made, train, make_people(rows, 2), PEOPLE)


def shape_and_trend(p: Prepared) -> tuple[float | None, float | None]:
    columns = column_fidelity(p)
    pairs = trend_errors(p, p.synthetic, 0)
    return mean_error([c.shape_error for c in columns]), mean_error([q.trend_error for q in pairs])


def test_an_identical_table_has_no_errors() -> None:
    assert shape_and_trend(prepare_people()) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_shuffled_columns_keep_the_shapes_and_lose_the_trends() -> None:
    shape, trend = shape_and_trend(prepare_people(shuffle_columns(make_people(400, 1))))
    assert shape == pytest.approx(0.0, abs=1e-9)
    assert trend is not None
    assert trend > 10


def test_errors_equal_the_sdmetrics_report() -> None:
    p = prepare_people(make_people(300, 7))
    report = QualityReport()
    kinds = {
        n: {"sdtype": "numerical" if r == "numerical" else "categorical"}
        for n, r in p.roles.items()
    }
    report.real_correlation_threshold = report.real_association_threshold = 0
    report.generate(p.frame(p.train), p.frame(p.synthetic), {"columns": kinds}, verbose=False)
    ours = shape_and_trend(p)
    theirs = report.get_properties().set_index("Property")["Score"]
    assert ours[0] == pytest.approx(100 * (1 - theirs["Column Shapes"]), abs=1e-9)
    pairs = trend_errors(p, p.synthetic, 0)
    report_trend = mean_error([pair.report_error for pair in pairs])
    assert report_trend == pytest.approx(100 * (1 - theirs["Column Pair Trends"]), abs=1e-9)


def test_the_trend_error_of_numbers_is_that_of_the_sdmetrics_metric() -> None:
    p = prepare_people(make_people(300, 7))
    real, synthetic = p.frame(p.train), p.frame(p.synthetic)
    mixed = [q for q in trend_errors(p, p.synthetic, 0) if p.roles[q.first] != p.roles[q.second]]
    assert mixed
    for pair in mixed:
        names = [pair.first, pair.second]
        numbers = [n for n in names if p.roles[n] is Role.NUMERICAL]
        score = ContingencySimilarity.compute(
            real[names].copy(), synthetic[names].copy(), continuous_column_names=numbers
        )
        assert pair.trend_error == pytest.approx(100 * (1 - score), abs=1e-9)


def test_one_extreme_value_does_not_spoil_the_trend_error() -> None:
    people = make_people(400, 1)
    incomes = people.column("income").to_numpy().copy()
    incomes[0] = 1e7  # one row in 400
    p = prepare_people(people.set_column(1, "income", pa.array(incomes)))
    pairs = [q for q in trend_errors(p, p.synthetic, 0) if "income" in (q.first, q.second)]
    mixed = [q for q in pairs if q.metric == "ContingencySimilarity"]
    assert mixed
    for pair in mixed:
        assert pair.trend_error is not None
        assert pair.trend_error <= 100 / 400 + 1e-9
        assert pair.report_error is not None
        assert pair.report_error > 50


def test_fresh_real_rows_cannot_be_told_apart_but_shuffled_ones_can() -> None:
    fresh = detect(prepare_people(make_people(600, 9), rows=600), 0, max_rows=1000)
    assert fresh.auc == pytest.approx(0.5, abs=0.07)
    shuffled = prepare_people(shuffle_columns(make_people(600, 1)), rows=600)
    found = detect(shuffled, 0, max_rows=1000, holdout=False)
    assert found.auc > 0.9
    assert found.logistic_auc == pytest.approx(0.5, abs=0.1)  # the margins are the same
    assert sum(item.share for item in found.importances) == pytest.approx(1.0)


def test_copied_training_rows_push_the_detector_below_chance() -> None:
    assert detect(prepare_people(), 0, max_rows=1000, holdout=False).auc < 0.5


def test_precision_and_recall_of_fresh_copied_and_far_rows() -> None:
    fresh = precision_recall(prepare_people(make_people(400, 5)), 0, max_rows=1000)
    assert fresh.alpha_precision > 0.9
    assert 0.35 < fresh.beta_recall < 0.65
    copied = precision_recall(prepare_people(), 0, max_rows=1000)
    assert copied.alpha_precision == pytest.approx(1.0, abs=0.01)
    assert copied.beta_recall > 0.95
    assert copied.authenticity == 0.0
    people = make_people(400, 5)
    far = people.set_column(1, "income", pa.array(np.full(400, 1e6)))
    assert precision_recall(prepare_people(far), 0, max_rows=1000).alpha_precision < 0.05


def test_utility_of_real_rows_as_synthetic_is_that_of_real_rows() -> None:
    result, curves = strict_utility(prepare_people(), 0, num_seeds=2)
    assert result.task == "binary"
    assert result.gap_percent == 0.0
    assert (result.gap_percent_low, result.gap_percent_high) == (0.0, 0.0)
    assert set(curves) == {"real", "synthetic"}
    assert {(s.learner, s.source) for s in result.scores} == {
        (learner, source) for learner in ("xgboost", "lightgbm") for source in ("real", "synthetic")
    }


def test_utility_falls_when_the_relations_are_lost() -> None:
    result, _ = strict_utility(prepare_people(shuffle_columns(make_people(400, 1))), 0, num_seeds=1)
    assert result.real > 0.8
    assert result.gap_percent < -15
    assert result.gap_percent_high < 0


def test_regression_drops_and_counts_rows_without_a_target() -> None:
    schema = make_schema({"age": ColumnKind.INTEGER, "income": ColumnKind.FLOAT}, "income")
    train = make_people(200, 1).select(["age", "income"])
    holes = [None if i % 4 == 0 else v for i, v in enumerate(train.column("income").to_pylist())]
    made = train.set_column(1, "income", pa.array(holes, pa.float64()))
    result, _ = strict_utility(prepare(made, train, train, schema), 0, num_seeds=1)
    assert result.task == "regression"
    assert not result.higher_is_better
    assert result.num_missing_target == {"synthetic": 50, "train": 0, "test": 0}
    assert result.synthetic >= result.real
    assert result.gap_percent <= 0


def test_a_class_that_the_synthetic_rows_lack_is_scored_as_never_predicted() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    label = np.select([x < -0.5, x > 0.5], ["low", "high"], "mid")
    train = pa.table({"x": x, "label": pa.array(label.tolist())})
    made = train.filter(pa.array(label != "high"))
    schema = make_schema({"x": ColumnKind.FLOAT, "label": ColumnKind.CATEGORICAL}, "label")
    result, _ = strict_utility(prepare(made, train, train, schema), 0, num_seeds=1)
    assert result.task == "multiclass"
    assert result.num_classes == 3
    assert result.real > 0.95
    assert result.synthetic < 0.9


def test_macro_auc_ignores_classes_that_the_test_rows_lack() -> None:
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.2, 0.8, 0.0]])
    assert macro_auc(labels, scores) == 1.0


def test_an_integer_target_of_two_values_is_a_class_and_others_are_numbers() -> None:
    schema = make_schema({"x": ColumnKind.FLOAT, "y": ColumnKind.INTEGER}, "y")
    two = pa.table({"x": [0.0, 1.0, 2.0], "y": [0, 1, 1]})
    three = pa.table({"x": [0.0, 1.0, 2.0], "y": [0, 1, 2]})
    assert decide_roles(schema, two, ())["y"] is Role.CATEGORICAL
    assert decide_roles(schema, three, ())["y"] is Role.NUMERICAL
    assert decide_roles(schema, three, ("y",))["y"] is Role.CATEGORICAL


@pytest.mark.parametrize(
    ("kinds", "target", "reason"),
    [
        ({"x": ColumnKind.FLOAT}, None, "names no target"),
        ({"x": ColumnKind.FLOAT}, "x", "no feature column"),
        ({"x": ColumnKind.FLOAT, "t": ColumnKind.TEXT}, "t", "of kind text"),
        ({"x": ColumnKind.FLOAT, "c": ColumnKind.CATEGORICAL}, "c", "fewer than two classes"),
    ],
)
def test_a_target_that_cannot_be_predicted_is_refused(kinds, target, reason) -> None:
    values = {"x": [1.0, 2.0, 3.0], "t": ["a", "b", "c"], "c": ["same"] * 3}
    table = pa.table({name: values[name] for name in kinds})
    with pytest.raises(NotComputableError, match=reason):
        find_problem(prepare(table, table, table, make_schema(kinds, target)))


def test_paper_scorer_drops_unseen_categories_and_reports_it(monkeypatch) -> None:
    monkeypatch.setitem(GRID, "n_estimators", (10,))
    monkeypatch.setitem(GRID, "max_depth", (5,))
    made = make_people(300, 1)
    jobs = ["new" if i < 30 else v for i, v in enumerate(made.column("job").to_pylist())]
    p = prepare_people(made.set_column(2, "job", pa.array(jobs)))
    strict, _ = strict_utility(p, 0, num_seeds=1)
    result = add_paper_scores(strict, p, 0)
    assert result.paper_real is not None
    assert result.paper_real > 0.8
    assert any("30 with unseen categories" in note for note in result.notes)
    assert result.scores[-1].num_train_rows == 270 - 270 // 9


def test_paper_scorer_logs_a_clipped_regression_target(monkeypatch) -> None:
    monkeypatch.setitem(GRID, "n_estimators", (10,))
    monkeypatch.setitem(GRID, "max_depth", (5,))
    schema = make_schema({"age": ColumnKind.INTEGER, "income": ColumnKind.FLOAT}, "income")
    table = make_people(300, 1).select(["age", "income"])
    p = prepare(table, table, table, schema)
    strict, _ = strict_utility(p, 0, num_seeds=1)
    result = add_paper_scores(strict, p, 0)
    assert result.paper_real is not None
    assert result.paper_real < 1.0 < result.real  # log units against units


def test_copies_are_counted_exactly() -> None:
    train, fresh = make_people(200, 1), make_people(200, 2)
    made = pa.concat_tables([train.slice(0, 17), fresh])
    assert count_copies(made, train, make_people(100, 3), PEOPLE) == (17, 17, 0)


def test_missing_values_and_negative_zero_hash_consistently() -> None:
    schema = make_schema({"x": ColumnKind.FLOAT, "s": ColumnKind.CATEGORICAL})
    table = pa.table({"x": [0.0, -0.0, None, None], "s": ["a", "a", None, ""]})
    first, second, third, fourth = hash_rows(table, schema)
    assert first == second
    assert third != fourth


def test_wilson_interval_matches_the_textbook() -> None:
    assert wilson(0.5, 100, 1000) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_every_kind_of_invalid_value_is_counted_by_column() -> None:
    train = make_people(50, 1)
    ages = train.column("age").to_pylist()
    made = train.set_column(0, "age", pa.array([999, *ages[1:]], pa.int64()))
    made = made.set_column(2, "job", pa.array(["?", *made.column("job").to_pylist()[1:]]))
    result = validity(made, train, PEOPLE, {"income": 0}, 5)
    by_name = {column.name: column for column in result.columns}
    assert by_name["age"].num_out_of_range == 1
    assert by_name["job"].num_unseen_category == 1
    assert result.num_invalid_rows == 1
    assert result.rejection_rate == pytest.approx(5 / 55)


def test_identifiers_must_match_their_pattern_and_be_unique() -> None:
    from difflm_core.data.schema import Column, Schema

    column = Column(name="id", kind=ColumnKind.IDENTIFIER, pattern=r"[A-Z]{2}\d{3}")
    schema = Schema(columns=(column,))
    train = pa.table({"id": ["AB001", "AB002"]})
    made = pa.table({"id": ["XY001", "XY001", "x", "ZZ999"]})
    found = validity(made, train, schema, {}, None).columns[0]
    assert (found.num_bad_pattern, found.num_duplicate_identifier) == (1, 1)


def test_diversity_sees_lost_rare_categories_and_repeats() -> None:
    schema = make_schema({"c": ColumnKind.CATEGORICAL, "x": ColumnKind.FLOAT})
    train = pa.table({"c": ["a"] * 500 + ["b"] * 500 + ["r"], "x": np.arange(1001.0)})
    made = pa.table({"c": ["a", "b"] * 50, "x": [1.0, 2.0] * 50})
    result = diversity(made, train, train, schema)
    assert result.category_coverage == pytest.approx(2 / 3)
    assert result.rare_category_coverage == 0.0
    assert result.duplicate_rate == pytest.approx(0.98)
    assert result.train_duplicate_rate == 0.0
    assert result.columns[1].range_coverage == pytest.approx(0.001)
