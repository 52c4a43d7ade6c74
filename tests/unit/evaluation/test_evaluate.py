import datetime
import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from difflm_core.data.schema import ColumnKind
from difflm_core.errors import ConfigError, DataError
from difflm_core.evaluation import Evaluation, evaluate, write_report
from difflm_core.evaluation.protocol import NUM_PARTS
from difflm_core.evaluation.results import NotComputed
from tests.unit.evaluation.people import PEOPLE, make_people, make_schema, shuffle_columns

NASTY = ['</script><img src=x onerror="a()">', "quo\"te's", "ünïcødé 列", "a|b`c$d_{x}", "[json]"]


@pytest.fixture(scope="module")
def people() -> Evaluation:
    return evaluate(
        make_people(500, 3),
        make_people(500, 1),
        make_people(400, 2),
        PEOPLE,
        num_seeds=2,
        num_rejected=4,
    )


def test_fresh_real_rows_get_a_clean_verdict(people) -> None:
    lights = {finding.key: finding.light for finding in people.verdict.findings}
    assert lights["detection"] == lights["shape"] == lights["copies"] == "good"
    assert lights["distance"] == lights["membership"] == "good"


def test_a_generator_that_copies_is_caught() -> None:
    train = make_people(500, 1)
    result = evaluate(train, train, make_people(500, 2), PEOPLE, num_seeds=1)
    lights = {finding.key: finding.light for finding in result.verdict.findings}
    assert lights["copies"] == lights["distance"] == lights["membership"] == "bad"
    assert result.privacy.copies.exact_count == 500
    assert result.privacy.membership.auc == pytest.approx(1.0)
    assert "gives away" in result.verdict.headline


def test_shuffled_columns_are_caught() -> None:
    result = evaluate(
        shuffle_columns(make_people(500, 1)), make_people(500, 1), make_people(500, 2), PEOPLE
    )
    lights = {finding.key: finding.light for finding in result.verdict.findings}
    assert (lights["shape"], lights["detection"], lights["utility"]) == ("good", "bad", "bad")


def test_the_same_seed_gives_the_same_report(people, tmp_path) -> None:
    again = evaluate(
        make_people(500, 3),
        make_people(500, 1),
        make_people(400, 2),
        PEOPLE,
        num_seeds=2,
        num_rejected=4,
    )
    assert people.to_dict() == again.to_dict()
    first, second = write_report(people, tmp_path / "1"), write_report(again, tmp_path / "2")
    assert [path.name for path in first] == ["report.html", "report.json", "report.md"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    # Neither a time nor a duration: they differ between equal runs.
    assert not any(re.search(r"\bUTC\b|\d\d:\d\d", path.read_text()) for path in first)


def test_json_keys_are_stable(people) -> None:
    tree = people.to_dict()
    json.dumps(tree, allow_nan=False)
    assert list(tree) == [
        "format_version",
        "scorer",
        "seed",
        "dataset",
        "verdict",
        "fidelity",
        "detection",
        "utility",
        "validity",
        "diversity",
        "privacy",
        "libraries",
    ]
    assert tree["format_version"] == 1


def test_progress_counts_the_parts() -> None:
    seen: list[str] = []
    table = make_people(30, 1)
    evaluate(table, table, table, PEOPLE, on_part=seen.append, num_seeds=1)
    assert len(seen) == NUM_PARTS


@pytest.mark.parametrize("num_rows", [1, 5])
def test_tiny_tables_give_figures_or_reasons(num_rows, tmp_path) -> None:
    table = make_people(num_rows, 1)
    result = evaluate(table, table, table, PEOPLE, num_seeds=1, scorer="both")
    assert isinstance(result.detection, NotComputed)
    assert "at least 20" in result.detection.not_computed
    write_report(result, tmp_path)


def odd_tables() -> dict[str, tuple[pa.Table, dict[str, ColumnKind], str | None]]:
    rng = np.random.default_rng(0)
    n = 60
    start = datetime.datetime(2020, 1, 1)
    when = [start + datetime.timedelta(hours=int(h)) for h in rng.integers(0, 9999, n)]
    cat = pa.array(rng.choice(["a", "b"], n).tolist())
    return {
        "one column": (pa.table({"x": rng.normal(size=n)}), {"x": ColumnKind.FLOAT}, None),
        "constants": (
            pa.table({"k": ["k"] * n, "x": [1.0] * n, "c": ["only"] * n}),
            {"k": ColumnKind.CONSTANT, "x": ColumnKind.FLOAT, "c": ColumnKind.CATEGORICAL},
            "c",
        ),
        "all missing": (
            pa.table({"x": pa.nulls(n, pa.float64()), "c": pa.nulls(n, pa.string()), "y": cat}),
            {"x": ColumnKind.FLOAT, "c": ColumnKind.CATEGORICAL, "y": ColumnKind.CATEGORICAL},
            "y",
        ),
        "text and identifier only": (
            pa.table({"id": [str(i) for i in range(n)], "t": [f"text {i}" for i in range(n)]}),
            {"id": ColumnKind.IDENTIFIER, "t": ColumnKind.TEXT},
            "t",
        ),
        "categorical only": (
            pa.table({"a": cat, "b": pa.array(rng.choice(["x", "y", "z"], n).tolist())}),
            {"a": ColumnKind.CATEGORICAL, "b": ColumnKind.CATEGORICAL},
            "b",
        ),
        "dates and times": (
            pa.table(
                {
                    "w": pa.array(when, pa.timestamp("us")),
                    "d": pa.array([w.date() for w in when], pa.date32()),
                    "t": pa.array([w.time() for w in when], pa.time64("us")),
                }
            ),
            {"w": ColumnKind.DATETIME, "d": ColumnKind.DATE, "t": ColumnKind.TIME},
            "w",
        ),
        "nasty names": (
            pa.table(
                {name: cat for name in NASTY[:-1]} | {NASTY[-1]: [NASTY[0]] * 30 + ["z"] * 30}
            ),
            dict.fromkeys(NASTY, ColumnKind.CATEGORICAL),
            NASTY[-1],
        ),
    }


@pytest.mark.parametrize("name", list(odd_tables()))
def test_odd_tables_never_crash(name, tmp_path) -> None:
    table, kinds, target = odd_tables()[name]
    schema = make_schema(kinds, target)
    result = evaluate(table, table, table, schema, num_seeds=1)
    json.dumps(result.to_dict(), allow_nan=False)
    paths = write_report(result, tmp_path / "report")
    assert [path.name for path in paths] == ["report.html", "report.json", "report.md"]
    if result.fidelity.__class__ is not NotComputed and result.fidelity.shape_error is not None:
        assert result.fidelity.shape_error == pytest.approx(0.0, abs=1e-9)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_the_page_escapes_names_and_loads_nothing(tmp_path) -> None:
    table, kinds, target = odd_tables()["nasty names"]
    result = evaluate(table, table, table, make_schema(kinds, target), num_seeds=1)
    html_path, _, markdown_path = write_report(result, tmp_path, title="<i>Title</i>")
    html = html_path.read_text(encoding="utf-8")
    parser = _Tags()
    parser.feed(html)
    assert parser.open == []  # well-formed
    assert not any("onerror" in attrs for _, attrs in parser.tags)
    assert [tag for tag, _ in parser.tags].count("script") == 1
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", html)
    assert "ünïcødé 列" in html
    assert len(html) < 3_000_000
    assert "<img" not in markdown_path.read_text(encoding="utf-8")


def test_no_row_is_in_the_report(people, tmp_path) -> None:
    incomes = {str(v) for t in (1, 2, 3) for v in make_people(500, t).column("income").to_pylist()}
    for path in write_report(people, tmp_path):
        numbers = set(re.findall(r"\d+\.\d{3}(?!\d)", path.read_text(encoding="utf-8")))
        assert not numbers & {income for income in incomes if len(income.split(".")[1]) == 3}


def test_wrong_types_are_counted_not_fatal() -> None:
    made, real = make_people(30, 2), make_people(30, 1)
    texts = ["not a number", *[str(v) for v in made.column("age").to_pylist()[1:]]]
    result = evaluate(made.set_column(0, "age", pa.array(texts)), real, real, PEOPLE, num_seeds=1)
    assert result.validity.columns[0].num_wrong_type == 1


def test_the_sample_limit_is_kept_and_stated() -> None:
    table = make_people(300, 1)
    result = evaluate(table, table, table, PEOPLE, sample_rows=50, num_seeds=1)
    assert result.dataset.num_train == 300
    assert result.dataset.num_train_used == 50
    assert result.privacy.copies.exact_count == 300


def test_bad_calls_are_explained() -> None:
    table = make_people(30, 1)
    with pytest.raises(ConfigError, match="found 'loose', expected one of"):
        evaluate(table, table, table, PEOPLE, scorer="loose")
    with pytest.raises(DataError, match=r"synthetic table lacks the columns \['age'\]"):
        evaluate(table.drop_columns(["age"]), table, table, PEOPLE)
    with pytest.raises(DataError, match="test table is empty"):
        evaluate(table, table, table.slice(0, 0), PEOPLE)
    with pytest.raises(DataError, match="not in the schema"):
        evaluate(table, table, table, PEOPLE, categorical=["year"])
