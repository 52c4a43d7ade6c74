"""Whole runs on documents: from a file to a report."""

import json

import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

from difflm_core.api import DiffLM
from difflm_core.artifacts import GeneratorBundle
from difflm_core.errors import ConfigError, DataError
from difflm_core.evaluation.gate import Limits, check_report
from difflm_core.stage import run_stage
from difflm_core.stages import load_stages
from difflm_core.stages.pipeline import run_pipeline
from tests.documents import documents_config, make_tools, write_lines


@pytest.fixture(scope="module")
def json_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    # Wide enough, and for long enough, to learn how values hang together.
    vae = {"width": 64, "max_tokens": 150_000}
    config = documents_config(folder, data={"target": "category"}, vae=vae)
    run_pipeline(config)
    return folder / "run"


@pytest.fixture(scope="module")
def code_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    run_pipeline(documents_config(folder, "code"))
    return folder / "run"


def documents_of(run, name="document"):
    parts = sorted((run / "synthetic").glob("part-*.parquet"))
    return [text for part in parts for text in pq.read_table(part).column(name).to_pylist()]


def test_every_json_document_is_valid(json_run):
    schema = json.loads((json_run / "synthetic" / "schema.json").read_text())
    validator = Draft202012Validator(schema["columns"][0]["json_schema"])
    texts = documents_of(json_run)
    assert len(texts) == 40
    for text in texts:
        assert validator.is_valid(json.loads(text))
    assert len(set(texts)) > 20


def test_the_model_has_learned(json_run):
    """What is generated looks like the records: arguments are described, names fit categories."""
    tools = [json.loads(text) for text in documents_of(json_run)]
    fitting = [tool["name"].endswith(tool["category"]) for tool in tools]
    assert sum(fitting) > 0.6 * len(tools)  # by chance, a quarter


def test_every_piece_of_code_parses(code_run):
    import ast

    texts = documents_of(code_run, "code")
    assert len(texts) == 40
    for text in texts:
        assert any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(text)))


@pytest.mark.parametrize("run", ["json_run", "code_run"])
def test_the_report_is_one_of_documents(run, request):
    folder = request.getfixturevalue(run)
    report = json.loads((folder / "report" / "report.json").read_text())
    documents = report["documents"]
    assert documents["kind"] == run.removesuffix("_run")
    assert documents["validity"]["num_invalid"] == 0
    assert documents["language"]["real"] > 0
    page = (folder / "report" / "report.html").read_text()
    assert "Documents: what is in them" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    result = check_report(report, Limits())
    checks = {check.name: check for check in result.checks}
    assert checks["invalid_rows"].value == 0
    assert checks["two_sample_auc"].value == documents["detection"]["auc"]
    assert checks["membership_auc"].passed


def test_the_field_that_is_predicted(json_run):
    report = json.loads((json_run / "report" / "report.json").read_text())
    found = report["documents"]["field_use"]
    assert found["path"] == "category"
    assert found["real"] > 0.9
    assert found["num_values"] == 4


def test_the_ledger_counts_what_was_rejected(json_run):
    ledger = json.loads((json_run / "synthetic" / "rejections.json").read_text())
    manifest = json.loads((json_run / "synthetic" / "manifest.json").read_text())
    total = sum(count for reasons in ledger.values() for count in reasons.values())
    assert manifest["summary"]["num_rejected"] == total
    assert set(ledger) <= {"document"}


def test_the_same_seed_gives_the_same_documents_with_any_number_of_threads(json_run):
    model = DiffLM.from_pretrained(json_run, precision="float32")
    frame = model.sample(20, seed=3)
    assert list(frame.columns) == ["document"]
    assert model.sample(20, seed=3).equals(frame)
    assert not model.sample(20, seed=4).equals(frame)
    with pytest.raises(ConfigError, match="documents are made without conditions"):
        model.sample(5, conditions={"category": "music"})


@pytest.mark.parametrize("run", ["json_run", "code_run"])
def test_the_card_is_one_of_documents(run, request):
    card = (request.getfixturevalue(run) / "generator" / "model_card.md").read_text()
    assert card.startswith("# Model card: generator of synthetic documents")
    kind = run.removesuffix("_run")
    assert f"168 documents of the kind {kind}." in card
    assert ("nobody has read" in card) == (kind == "code")
    assert "The folder holds no training documents." in card


def test_documents_are_written_as_they_are(json_run, tmp_path):
    model = DiffLM.from_pretrained(json_run, precision="float32")
    model.sample_to(tmp_path / "out.jsonl", 10, seed=1)
    tools = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [set(tool) >= {"name", "parameters"} for tool in tools] == [True] * 10


def test_two_workers_make_what_one_makes(tmp_path):
    generation = {"num_rows": 40, "batch_rows": 8, "shard_rows": 16, "max_attempts": 500}
    config = documents_config(tmp_path, count=120, vae={"max_tokens": 4000}, generation=generation)
    run_pipeline(config)
    generate = next(stage for stage in load_stages() if stage.name == "generate")
    run_stage(
        generate,
        config.generation,
        {"generator": GeneratorBundle.open(str(tmp_path / "run" / "generator"))},
        str(tmp_path / "again" / "synthetic"),
        seed=config.seed,
        runtime=config.runtime.model_copy(update={"num_workers": 2}),
    )
    assert documents_of(tmp_path / "again") == documents_of(tmp_path / "run")


def test_a_given_json_schema_is_kept_to(tmp_path):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 30}},
        "required": ["name"],
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    config = documents_config(tmp_path, data={"schema_path": str(tmp_path / "schema.json")})
    run_pipeline(config, stages=load_stages()[:1])
    saved = json.loads((tmp_path / "run" / "corpus" / "schema.json").read_text())
    assert saved["columns"][0]["json_schema"] == schema
    write_lines(tmp_path / "records.jsonl", [*make_tools(3), {"name": "x" * 31}])
    with pytest.raises(DataError, match=r"at /properties/name/maxLength: found text of 31"):
        run_pipeline(config, stages=load_stages()[:1], replace="changed")


def test_documents_that_are_too_long_are_left_out(tmp_path):
    tools = make_tools(60)
    for tool in tools[::10]:
        tool["parameters"] = {f"p{i}": {"type": "string", "description": "x"} for i in range(60)}
    config = documents_config(
        tmp_path,
        codec={"max_document_tokens": 120},
        vae={"max_tokens": 2000},
        generation={"num_rows": 4, "max_attempts": 500},
    )
    write_lines(tmp_path / "records.jsonl", tools)
    results = run_pipeline(config)
    latents = next(r.artifact for r in results if r.stage == "extract-latents")
    assert latents.manifest.summary["num_rows"] > 0
