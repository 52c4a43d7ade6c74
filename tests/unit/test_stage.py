"""A stage: its description, a run, what a run leaves."""

import json

import pytest
import yaml

from difflm_core import storage
from difflm_core.artifacts import Corpus, EvaluationReport
from difflm_core.config import RuntimeConfig
from difflm_core.errors import DataError
from difflm_core.stage import Stage, StageContext, run_stage
from tests.unit.stage_runs import fail_at, names_in, run_count
from tests.unit.toy_stages import ADD, COUNT, AddConfig, CountConfig, read_sum


def test_a_stage_is_described_by_its_signature():
    assert (COUNT.name, COUNT.config_type, COUNT.inputs, COUNT.output, COUNT.version) == (
        "count-numbers",
        CountConfig,
        {},
        Corpus,
        1,
    )
    assert (ADD.inputs, ADD.output, ADD.version) == ({"corpus": Corpus}, EvaluationReport, 2)
    assert ADD.summary == "Add the numbers of a corpus."


def test_a_function_of_another_form_is_not_a_stage():
    def wrong(cfg: CountConfig) -> Corpus: ...

    with pytest.raises(TypeError, match="wrong: the first parameters must be ctx and cfg"):
        Stage(wrong)


def test_a_stage_writes_a_complete_artifact(out):
    artifact = run_count(out, seed=5)
    assert isinstance(artifact, Corpus)
    manifest = artifact.manifest
    assert (manifest.kind, manifest.stage, manifest.summary) == (
        "Corpus",
        "count-numbers",
        {"num_rows": 10},
    )
    assert [(entry.path, entry.rows) for entry in manifest.files] == [
        ("numbers-000.parquet", 4),
        ("numbers-001.parquet", 4),
        ("numbers-002.parquet", 2),
    ]
    assert manifest.recipe["config"] == {"num_rows": 10, "shard_rows": 4, "source": None}
    assert manifest.recipe["seed"] == 5
    Corpus.open(out, verify=True)
    assert names_in(out) == [
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "numbers-000.parquet",
        "numbers-001.parquet",
        "numbers-002.parquet",
    ]
    assert yaml.safe_load(storage.read_text(storage.join(out, "config.yaml")))["num_rows"] == 10


def test_metrics_hold_duration_rows_and_memory(out):
    run_count(out)
    lines = storage.read_text(storage.join(out, "metrics.jsonl")).splitlines()
    last = json.loads(lines[-1])
    assert (last["event"], last["stage"], last["rows"]) == ("stage_finished", "count-numbers", 10)
    assert 0 <= last["duration_seconds"] < 60
    assert last["peak_memory_bytes"] > 1_000_000
    assert last["rows_per_second"] == pytest.approx(
        10 / max(last["duration_seconds"], 0.001), abs=0.001
    )
    assert "tokens_per_second" not in last
    assert (last["summary"], last["worker_peak_memory_bytes"]) == ({"num_rows": 10}, None)
    assert json.loads(lines[0])["event"] == "stage_started"


def closing_event(uri):
    last = json.loads(storage.read_text(storage.join(uri, "metrics.jsonl")).splitlines()[-1])
    assert last["event"] == "stage_finished"
    return last


def test_the_time_of_workers_counts(tmp_path):
    alone, shared = str(tmp_path / "alone"), str(tmp_path / "shared")
    run_count(alone)
    artifact = run_count(shared, runtime=RuntimeConfig(num_workers=2))
    event = closing_event(shared)
    # Two processes started; one alone has only written a few numbers.
    assert event["cpu_hours"] > closing_event(alone)["cpu_hours"] + 0.2 / 3600
    assert event["worker_peak_memory_bytes"] > 20_000_000
    assert event["gpu_hours"] == 0
    done = artifact.manifest.provenance
    assert (done.cpu_hours, done.worker_peak_memory_bytes) == (
        event["cpu_hours"],
        event["worker_peak_memory_bytes"],
    )


def test_rows_of_an_earlier_run_are_not_part_of_the_rate(out, monkeypatch):
    fail_at(monkeypatch, 2)
    with pytest.raises(DataError):
        run_count(out)
    fail_at(monkeypatch, -1)
    run_count(out)
    event = closing_event(out)
    assert event["rows"] == 10
    seconds = max(event["duration_seconds"], 0.001)
    assert event["rows_per_second"] == pytest.approx(2 / seconds, abs=0.001)


def test_a_stage_notes_what_closes_its_metrics(out):
    def count_noted(ctx: StageContext, cfg: CountConfig) -> Corpus:
        ctx.note(rejections={"x": {"odd": 3}})
        return ctx.finish(Corpus)

    artifact = run_stage(Stage(count_noted), CountConfig(), {}, out)
    assert closing_event(out)["rejections"] == {"x": {"odd": 3}}
    assert artifact.manifest.summary == {}


def test_stages_are_chained_by_their_artifacts(out, tmp_path):
    corpus = run_count(out)
    report = run_stage(ADD, AddConfig(factor=2), {"corpus": corpus}, str(tmp_path / "sum"))
    assert read_sum(report) == 90
    entry = report.manifest.inputs["corpus"]
    assert (entry.uri, entry.kind, entry.content_hash) == (
        out,
        "Corpus",
        corpus.manifest.content_hash,
    )
    assert entry.manifest_sha256 == storage.sha256(storage.join(out, "manifest.json"))


def test_a_stage_runs_on_remote_storage(tmp_path):
    root = f"memory://{tmp_path.name}"
    run_count(f"{root}/numbers")
    report = run_stage(ADD, AddConfig(), {"corpus": f"{root}/numbers"}, f"{root}/sum")
    assert read_sum(report) == 45
    assert '"stage_finished"' in storage.read_text(f"{root}/numbers/metrics.jsonl")
    assert run_count(f"{root}/numbers").manifest.summary == {"num_rows": 10}


def test_equal_runs_have_equal_content_and_fingerprints(tmp_path):
    first, second = run_count(str(tmp_path / "a")), run_count(str(tmp_path / "b"))
    assert first.manifest.content_hash == second.manifest.content_hash
    assert first.manifest.fingerprint == second.manifest.fingerprint
    other = run_count(str(tmp_path / "c"), seed=1)
    assert other.manifest.content_hash != first.manifest.content_hash
    assert other.manifest.fingerprint != first.manifest.fingerprint


def test_any_number_of_workers_gives_the_same_content(tmp_path):
    one = run_count(str(tmp_path / "a"))
    two = run_count(str(tmp_path / "b"), runtime=RuntimeConfig(num_workers=2))
    assert one.manifest.content_hash == two.manifest.content_hash
    assert one.manifest.fingerprint == two.manifest.fingerprint
