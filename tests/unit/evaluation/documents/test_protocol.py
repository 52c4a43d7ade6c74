"""A corpus from tables to the page."""

import json

import pytest

from difflm_core.errors import DataError
from difflm_core.evaluation import evaluate, write_report
from difflm_core.evaluation.documents.protocol import NUM_DOCUMENT_PARTS
from difflm_core.evaluation.gate import Limits, check_report
from tests.unit.evaluation.documents.corpora import CODE, JSON, code_texts, json_texts, table


def run(synthetic, train, test, schema=JSON, **options):
    name = schema.columns[0].name
    return evaluate(
        table(synthetic, name), table(train, name), table(test, name), schema, **options
    )


@pytest.fixture(scope="module")
def report():
    seen: list[str] = []
    result = run(
        [*json_texts(59, 1), None],
        json_texts(60, 2),
        json_texts(40, 3),
        rejected={"too <long>": 4},
        on_part=seen.append,
    )
    return result, seen


def test_progress_counts_the_parts(report) -> None:
    assert len(report[1]) == NUM_DOCUMENT_PARTS


def test_a_missing_document_is_invalid(report) -> None:
    measures = report[0].documents
    assert (measures.validity.num_invalid, measures.validity.num_documents) == (1, 60)
    assert report[0].dataset.num_rejected == 4


def test_the_same_seed_gives_the_same_files(report, tmp_path) -> None:
    again = run(
        [*json_texts(59, 1), None],
        json_texts(60, 2),
        json_texts(40, 3),
        rejected={"too <long>": 4},
    )
    first = write_report(report[0], tmp_path / "1")
    second = write_report(again, tmp_path / "2")
    assert [path.name for path in first] == ["report.html", "report.json", "report.md"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    json.loads(first[1].read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("schema", [JSON, CODE], ids=["json", "code"])
def test_no_real_document_is_on_the_page(schema, tmp_path) -> None:
    make = json_texts if schema is JSON else code_texts
    train, test = make(80, 1), make(60, 2)
    # Half of what was generated is copied: the copies must not be the examples.
    result = run([*train[:40], *make(40, 3)], train, test, schema)
    assert result.documents.repetition.copy_rate == 0.5
    names = (
        [json.loads(t)["name"] for t in (*train, *test)]
        if schema is JSON
        else [text.splitlines()[0] for text in (*train, *test)]
    )
    for path in write_report(result, tmp_path):
        content = path.read_text(encoding="utf-8")
        assert not [name for name in names if name in content]


def test_the_page_shows_examples_and_escapes_all_text(tmp_path) -> None:
    made = [
        json.dumps({"category": "sports", "name": f"<script>q{i}</script> r{i} s{i} t{i} u{i}"})
        for i in range(40)
    ]
    result = run(made, json_texts(60, 1), json_texts(40, 2), rejected={"too <long>": 4})
    html, _, markdown = (p.read_text(encoding="utf-8") for p in write_report(result, tmp_path))
    assert html.count('<pre class="example">') == 3
    assert "&lt;script&gt;q" in html
    assert "<script>q" not in html + markdown
    assert "too &lt;long&gt; (4)" in html
    assert html.count("<script>") == 1  # the page's own


@pytest.mark.parametrize("schema", [JSON, CODE], ids=["json", "code"])
@pytest.mark.parametrize("count", [1, 4])
def test_tiny_corpora_give_a_report(schema, count, tmp_path) -> None:
    make = json_texts if schema is JSON else code_texts
    result = run(make(count, 1), make(count, 2), make(count, 3), schema)
    write_report(result, tmp_path)
    lights = {finding.key: finding.light for finding in result.verdict.findings}
    assert lights["detection"] == lights["language"] == lights["diversity"] == "unknown"
    assert lights["copies"] == lights["validity"] == "good"


@pytest.mark.parametrize("text", ["{", "1e999"])
def test_odd_synthetic_documents_never_crash(text, tmp_path) -> None:
    write_report(run([text] * 25, json_texts(25, 1), json_texts(25, 2)), tmp_path)


@pytest.mark.parametrize("text", ["", "列"])
def test_odd_real_documents_never_crash(text, tmp_path) -> None:
    write_report(run(json_texts(25, 1), [text] * 25, [text] * 25), tmp_path)


def test_a_side_without_documents_is_refused() -> None:
    with pytest.raises(DataError, match="there are no test documents; expected at least one"):
        run(json_texts(3, 1), json_texts(3, 2), [])


def test_the_gate_reads_the_report(report) -> None:
    tree = report[0].to_dict()
    found = check_report(tree, Limits(shape_error_percent=-1, trend_error_percent=-1))
    figures = found.figures()
    assert figures["invalid_rows"] == 1
    assert figures["two_sample_auc"] == report[0].documents.detection.auc
    assert figures["copy_excess_percent"] == 0
    assert figures["utility_loss_percent"] == pytest.approx(
        max(0, report[0].documents.language.loss_percent)
    )
    # There is no membership attack on documents; that is no reason to refuse them.
    assert [check.name for check in found.checks if not check.passed] == ["invalid_rows"]


def test_the_gate_refuses_copies() -> None:
    train = json_texts(60, 1)
    tree = run([*train[:30], *json_texts(30, 3)], train, json_texts(40, 2)).to_dict()
    checks = {check.name: check for check in check_report(tree, Limits()).checks}
    assert checks["copy_excess_percent"].value == pytest.approx(50)
    assert not checks["copy_excess_percent"].passed
