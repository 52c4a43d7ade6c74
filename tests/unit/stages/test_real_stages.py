"""The six stages on a small table: contents, seeds, workers, formats."""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from difflm_core.artifacts import (
    Corpus,
    EvaluationReport,
    GeneratorBundle,
    Latents,
    SyntheticData,
    VaeCheckpoint,
)
from difflm_core.config import GenerateConfig, RuntimeConfig
from difflm_core.data.schema import Schema
from difflm_core.errors import StageError
from difflm_core.stage import run_stage
from difflm_core.stages import generate, load_stages
from difflm_core.stages.corpus import load_codec
from difflm_core.stages.pipeline import FOLDERS, run_pipeline
from tests.people import KINDS, SETTINGS, content_hashes, make_people, people_config


def generated(people_run, folder, runtime=None, seed=0, **changes):
    """Run the generate stage on the finished run's generator."""
    settings = {**SETTINGS["generation"], **changes}
    return run_stage(
        generate.STAGE,
        GenerateConfig(**settings),
        {"generator": str(people_run / "generator")},
        str(folder),
        seed=seed,
        runtime=runtime,
    )


def read_parts(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))])


def part_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


# ---------------------------------------------------------------------------------- contents


def test_every_kind_of_column_is_recognised(people_run):
    schema = Schema.load(people_run / "corpus" / "schema.json")
    assert {column.name: column.kind.value for column in schema.columns} == KINDS
    assert {column.name for column in schema.columns if column.nullable} == {"job", "pay"}


def test_a_corpus_has_disjoint_splits_of_all_rows(people_run):
    corpus = Corpus.open(people_run / "corpus", verify=True)
    sizes = {"train": 225, "valid": 15, "test": 60}
    people = []
    for split, size in sizes.items():
        tables = [pq.read_table(corpus.path(e.path)) for e in corpus.files(split, ".parquet")]
        assert sum(table.num_rows for table in tables) == size
        people += [name for table in tables for name in table["person"].to_pylist()]
        assert corpus.manifest.summary[f"num_{split}"] == size
    assert len(corpus.files("train")) == 3
    assert sorted(people) == sorted(make_people()["person"])


def events_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_metrics_of_a_training_count_rows_and_tokens(people_run):
    vae = VaeCheckpoint.open(people_run / "vae")
    *events, last = events_of(people_run / "vae")
    (task,) = [event for event in events if event["event"] == "task_finished"]
    # Shards of 75 rows: a batch of 64 each.
    assert task["rows_per_second"] == pytest.approx(64 * task["rate_per_second"], rel=1e-3)
    num_slots = len(load_codec(vae).grammar)
    assert task["tokens_per_second"] == pytest.approx(
        64 * num_slots * task["rate_per_second"], rel=1e-3
    )
    steps = vae.manifest.summary["num_steps"]
    seconds = last["duration_seconds"]
    assert last["tokens_per_second"] == pytest.approx(steps * 64 * num_slots / seconds, rel=1e-3)
    assert last["summary"]["reconstruction"] == vae.manifest.summary["reconstruction"]
    assert last["cpu_hours"] > 0


def test_the_metrics_of_a_generation_name_what_was_rejected(people_run):
    last = events_of(people_run / "synthetic")[-1]
    written = json.loads((people_run / "synthetic" / "rejections.json").read_text())
    assert last["rejections"] == written
    assert sum(written["note"].values()) == last["summary"]["num_rejected"] > 0
    assert last["rows_per_second"] == pytest.approx(250 / last["duration_seconds"], abs=0.1)


def test_metrics_hold_no_value_of_a_table(people_run):
    table = make_people()
    values = {str(value) for value in [*table["person"], *table["note"], *table["pay"].dropna()]}
    for path in people_run.glob("*/metrics.jsonl"):
        text = path.read_text()
        assert not [value for value in values if f'"{value}"' in text]


def test_latents_belong_to_the_records_of_their_shard(people_run):
    latents = Latents.open(people_run / "latents", verify=True)
    corpus = Corpus.open(people_run / "corpus")
    for split in ("train", "valid"):
        assert [(e.path, e.rows) for e in latents.files(split)] == [
            (e.path, e.rows) for e in corpus.files(split)
        ]
    assert latents.manifest.summary["num_rows"] == 240
    assert latents.manifest.summary["latent_dim"] == 4


def test_synthetic_data_has_as_many_rows_as_asked_for_in_the_form_of_the_source(people_run):
    synthetic = SyntheticData.open(people_run / "synthetic", verify=True)
    parts = synthetic.files(suffix=".parquet")
    assert [entry.rows for entry in parts] == [100, 100, 50]
    frame = read_parts(people_run / "synthetic")
    assert list(frame.columns) == list(KINDS)
    assert frame["person"].is_unique
    assert frame["person"].str.fullmatch(r"P-\d{5}").all()
    ledger = json.loads((people_run / "synthetic" / "rejections.json").read_text())
    assert list(ledger) == ["note"]
    assert sum(ledger["note"].values()) == synthetic.manifest.summary["num_rejected"] > 100


def test_a_generator_holds_no_records_and_needs_nothing_else(people_run):
    bundle = GeneratorBundle.open(people_run / "generator", verify=True)
    assert [entry.path for entry in bundle.manifest.files] == [
        "calibration.safetensors",
        "codec/codec.json",
        "codec/codec.safetensors",
        "diffusion.json",
        "diffusion.safetensors",
        "model_card.md",
        "vae.json",
        "vae.safetensors",
    ]
    payload = b"".join(
        (people_run / "generator" / entry.path).read_bytes() for entry in bundle.manifest.files
    )
    train = pq.read_table(people_run / "corpus" / "train" / "part-00000.parquet")
    for name in ("person", "note"):
        assert not [text for text in train[name].to_pylist() if text.encode() in payload]
    assert bundle.manifest.summary["num_training_rows"] == 225


def test_the_model_card_tells_what_validation_found(people_run):
    card = (people_run / "generator" / "model_card.md").read_text()
    vae = VaeCheckpoint.open(people_run / "vae").manifest.summary
    assert "225 records with 8 columns. Target: label." in card
    assert f"| KL divergence of the posterior, nats per record | {vae['kl']:.4g} |" in card
    assert "- vae: width 32, num_layers 1" in card
    assert "- diffusion: width 32, num_blocks 1, batch_rows 64, num_steps 12" in card
    for value in ("pilot", "über", "P-0"):
        assert value not in card


def test_a_report_says_how_many_rows_it_saw(people_run):
    report = EvaluationReport.open(people_run / "report", verify=True)
    tree = json.loads((people_run / "report" / "report.json").read_text())
    dataset = tree["dataset"]
    assert (dataset["num_train"], dataset["num_test"], dataset["num_synthetic"]) == (225, 60, 250)
    assert report.manifest.summary["invalid_rows"] == 0
    events = [json.loads(line) for line in (people_run / "report" / "metrics.jsonl").open()]
    assert next(e for e in events if e["event"] == "task_finished")["done"] == 6


# ------------------------------------------------------------------------- the same, however


def test_the_same_seed_gives_the_same_bytes(people_run, tmp_path):
    run_pipeline(people_config(tmp_path))
    assert content_hashes(tmp_path / "run") == content_hashes(people_run)
    assert part_bytes(tmp_path / "run" / "synthetic") == part_bytes(people_run / "synthetic")


@pytest.fixture
def two_threads(monkeypatch):
    """Settings of a stage that uses two threads; undone afterwards."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    before = torch.get_num_threads()
    yield RuntimeConfig(threads=2)
    torch.set_num_threads(before)


def test_any_number_of_threads_gives_the_same_bytes(people_run, tmp_path, two_threads):
    # Training is the exception: its sums round differently with another number of threads.
    stages = {stage.output: stage for stage in load_stages() if "train-" not in stage.name}
    config = people_config(tmp_path, "other")
    for kind, stage in stages.items():
        inputs = {name: str(people_run / name) for name in stage.inputs}
        artifact = run_stage(
            stage,
            config.section(stage.config_type),
            inputs,
            str(tmp_path / stage.name),
            runtime=two_threads,
        )
        assert torch.get_num_threads() == 2
        expected = kind.open(people_run / FOLDERS[kind]).manifest.content_hash
        assert artifact.manifest.content_hash == expected


def test_any_number_of_workers_gives_the_same_rows(people_run, tmp_path):
    changes = {"num_rows": 200, "shard_rows": 50}
    for num_workers in (1, 4):
        runtime = RuntimeConfig(num_workers=num_workers)
        generated(people_run, tmp_path / str(num_workers), runtime, **changes)
    assert part_bytes(tmp_path / "1") == part_bytes(tmp_path / "4")
    assert len(part_bytes(tmp_path / "4")) == 4
    ledgers = [(tmp_path / name / "rejections.json").read_text() for name in ("1", "4")]
    assert ledgers[0] == ledgers[1] != "{}\n"


def test_another_seed_gives_other_rows(people_run, tmp_path):
    generated(people_run, tmp_path / "other", seed=1, num_rows=50)
    first = part_bytes(people_run / "synthetic")["part-00000.parquet"]
    assert part_bytes(tmp_path / "other")["part-00000.parquet"] != first


def test_a_shard_is_whole_batches_so_rows_do_not_depend_on_shards(people_run, tmp_path):
    generated(people_run, tmp_path / "one", shard_rows=1000)
    assert list(part_bytes(tmp_path / "one")) == ["part-00000.parquet"]
    one, three = read_parts(tmp_path / "one"), read_parts(people_run / "synthetic")
    pd.testing.assert_frame_equal(one.reset_index(drop=True), three.reset_index(drop=True))


# ----------------------------------------------------------------------------------- options


def test_one_row(people_run, tmp_path):
    generated(people_run, tmp_path / "one", num_rows=1)
    frame = read_parts(tmp_path / "one")
    assert len(frame) == 1
    pd.testing.assert_frame_equal(frame, read_parts(tmp_path / "one").head(1))


def test_as_many_rows_as_were_trained_on_by_default(people_run, tmp_path):
    generated(people_run, tmp_path / "same", num_rows=None)
    assert len(read_parts(tmp_path / "same")) == 225


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_text_formats_hold_the_same_records(people_run, tmp_path, form):
    artifact = generated(people_run, tmp_path / form, format=form)
    assert [path.name for path in sorted((tmp_path / form).glob("part-*"))] == [
        f"part-0000{index}.{form}" for index in range(3)
    ]
    from difflm_core.stages.evaluate import read_synthetic

    expected = read_synthetic(SyntheticData.open(people_run / "synthetic"))
    assert read_synthetic(artifact).equals(expected)


def test_what_is_rejected_again_and_again_fails_the_stage(people_run, tmp_path):
    with pytest.raises(StageError) as caught:
        generated(people_run, tmp_path / "hard", max_attempts=1)
    assert "records were rejected 1 times each ('note': not valid UTF-8 (" in str(caught.value)
    assert not (tmp_path / "hard" / "manifest.json").exists()
    assert part_bytes(tmp_path / "hard") == {}


def test_temperature_and_top_p_reach_the_generator(people_run, tmp_path):
    usual = read_parts(people_run / "synthetic")["age"].nunique()
    for name, value in (("temperature", 0.05), ("top_p", 0.05)):
        generated(people_run, tmp_path / name, max_attempts=3000, **{name: value})
        assert read_parts(tmp_path / name)["age"].nunique() < 0.7 * usual
