import contextlib
import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import yaml

from difflm_core import storage
from difflm_core.artifacts import Corpus, EvaluationReport
from difflm_core.config import RunConfig, RuntimeConfig, SerializeConfig
from difflm_core.errors import ArtifactError, DataError, StageError
from difflm_core.parallel import LocalLauncher, ignore_rows
from difflm_core.stage import Stage, StageContext, make_recipe, plan_stage, run_stage
from tests.unit.toy_stages import ADD, COUNT, AddConfig, CountConfig, read_sum


class CountingLauncher(LocalLauncher):
    """Remembers which shards were done."""

    def __init__(self):
        self.done = []

    def map_shards(self, make_worker, shards, num_workers=1, on_rows=ignore_rows):
        def make_remembering_worker():
            worker = make_worker()

            def work(shard, on_rows):
                worker(shard, on_rows)
                self.done.append(shard.index)

            return work

        super().map_shards(make_remembering_worker, shards, num_workers, on_rows)


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "numbers")


def run_count(out, launcher=None, cfg=None, **options):
    return run_stage(COUNT, cfg or CountConfig(), {}, out, launcher, **options)


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def fail_at(monkeypatch, index):
    monkeypatch.setenv("TOY_FAIL_SHARD", str(index))


# ------------------------------------------------------------------------------- description


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


# ------------------------------------------------------------------------------------ running


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


# ----------------------------------------------------------------------------- reuse, resume


def test_a_finished_output_is_reused(out):
    first = run_count(out)
    launcher = CountingLauncher()
    again = run_count(out, launcher)
    assert launcher.done == []
    assert again.manifest == first.manifest


def test_a_setting_outside_the_fingerprint_does_not_matter(out):
    run_count(out)
    launcher = CountingLauncher()
    run_count(out, launcher, CountConfig(verbose=True))
    assert launcher.done == []


def test_a_half_finished_output_is_resumed(out, tmp_path, monkeypatch):
    fail_at(monkeypatch, 2)
    with pytest.raises(DataError, match="shard failed"):
        run_count(out)
    assert not storage.exists(storage.join(out, "manifest.json"))
    monkeypatch.delenv("TOY_FAIL_SHARD")
    launcher = CountingLauncher()
    resumed = run_count(out, launcher)
    assert launcher.done == [2]
    undisturbed = run_count(str(tmp_path / "other"))
    assert resumed.manifest.content_hash == undisturbed.manifest.content_hash


def _run_and_die(out):
    os.environ["TOY_KILL_SHARD"] = "1"
    run_count(out)


def test_a_killed_process_is_resumed(out, tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_run_and_die, args=(out,))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    launcher = CountingLauncher()
    resumed = run_count(out, launcher)
    assert launcher.done == [1, 2]
    undisturbed = run_count(str(tmp_path / "other"))
    assert resumed.manifest.content_hash == undisturbed.manifest.content_hash


def test_a_kill_between_commit_and_clearing_is_cleared_by_reuse(out):
    run_count(out)
    storage.write_text(storage.join(out, "work", "checkpoint"), "x")
    storage.write_text(storage.join(out, "started.json"), "{}")
    run_count(out)
    assert not storage.exists(storage.join(out, "work"))
    assert not storage.exists(storage.join(out, "started.json"))


def test_leftovers_for_resuming_are_no_payload(out):
    def count_with_work(ctx: StageContext, cfg: CountConfig) -> Corpus:
        """Keep a checkpoint."""
        ctx.output.write_json("work/step.json", 1)
        ctx.output.write_json("a.json", 2)
        return ctx.finish(Corpus)

    artifact = run_stage(Stage(count_with_work), CountConfig(), {}, out)
    assert [entry.path for entry in artifact.manifest.files] == ["a.json"]
    assert not storage.exists(storage.join(out, "work"))


def test_fresh_replaces_a_finished_output(out):
    run_count(out, cfg=CountConfig(num_rows=20))
    launcher = CountingLauncher()
    artifact = run_count(out, launcher, replace="always")
    assert launcher.done == [0, 1, 2]
    assert len(artifact.manifest.files) == 3
    assert names_in(out)[-1] == "numbers-002.parquet"


def test_a_kill_while_discarding_never_leaves_old_files_in_use(out, monkeypatch):
    run_count(out, seed=1)
    removed = []
    real_remove = storage.remove

    def remove_two(uri):
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(uri)
        real_remove(uri)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", remove_two)
        with pytest.raises(KeyboardInterrupt):
            run_count(out, replace="always")
    launcher = CountingLauncher()
    run_count(out, launcher)
    assert launcher.done == [0, 1, 2]


def test_no_disk_space_is_one_clear_error_and_no_manifest(out, monkeypatch):
    full = errno.ENOSPC

    @contextlib.contextmanager
    def full_disk(uri):
        raise OSError(full, os.strerror(full))
        yield

    with monkeypatch.context() as patch:
        patch.setattr("tests.unit.toy_stages.storage.atomic_output", full_disk)
        with pytest.raises(StageError) as caught:
            run_count(out)
    assert str(caught.value) == (
        f"{out}: no space is left for the output of count-numbers. Free some, then run the same "
        "command again: what was written is kept, and it continues there."
    )
    assert not storage.exists(storage.join(out, "manifest.json"))
    assert run_count(out).manifest.summary == {"num_rows": 10}


def test_no_disk_space_is_seen_in_the_text_of_other_errors(out):
    def write_much(ctx: StageContext, cfg: CountConfig) -> Corpus:
        """Fail as a Rust library does."""
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(StageError, match="no space is left for the output of write-much"):
        run_stage(Stage(write_much), CountConfig(), {}, out)


# ------------------------------------------------------------------------------------ refusal


def test_a_changed_configuration_is_refused_with_its_keys(out):
    run_count(out, seed=1)
    with pytest.raises(StageError) as caught:
        run_count(out, cfg=CountConfig(num_rows=12), seed=2)
    assert str(caught.value) == (
        f"{out}: count-numbers has finished here with other settings:\n"
        "  num_rows: 10 -> 12\n"
        "  seed: 1 -> 2\n"
        "Choose another output folder, or replace what is there: --replace-changed redoes what "
        "has changed, --fresh everything."
    )


def test_a_changed_configuration_of_a_half_finished_output_is_refused(out, monkeypatch):
    fail_at(monkeypatch, 1)
    with pytest.raises(DataError):
        run_count(out)
    with pytest.raises(StageError) as caught:
        run_count(out, cfg=CountConfig(num_rows=12))
    assert str(caught.value) == (
        f"{out}: count-numbers was begun here with other settings:\n"
        "  num_rows: 10 -> 12\n"
        "Choose another output folder, or replace what is there: --replace-changed redoes what "
        "has changed, --fresh everything."
    )


def test_the_keys_of_a_section_are_named_in_full():
    def serialize(ctx: StageContext, cfg: SerializeConfig) -> Corpus: ...

    recipe = make_recipe(Stage(serialize), RunConfig().section(SerializeConfig), {}, 0)
    assert recipe["config"]["data"]["valid_fraction"] == 0.05
    assert recipe["config"]["codec"]["digit_base"] == 64


def test_a_changed_output_is_replaced_and_an_unchanged_one_kept_on_request(out):
    run_count(out)
    launcher = CountingLauncher()
    run_count(out, launcher, replace="changed")
    assert launcher.done == []
    run_count(out, launcher, CountConfig(num_rows=3), replace="changed")
    assert launcher.done == [0]


def test_a_changed_input_is_refused(out, tmp_path):
    target = str(tmp_path / "sum")
    run_stage(ADD, AddConfig(), {"corpus": run_count(out)}, target)
    changed = run_count(out, cfg=CountConfig(num_rows=3), replace="always")
    with pytest.raises(StageError) as caught:
        run_stage(ADD, AddConfig(), {"corpus": changed}, target)
    assert "\n  input corpus: its content has changed\n" in str(caught.value)


def test_a_changed_source_file_is_refused(out, tmp_path):
    source = tmp_path / "data.csv"
    source.write_text("a\n1\n")
    cfg = CountConfig(source=str(source))
    run_count(out, cfg=cfg)
    run_count(out, cfg=cfg)
    source.write_text("a\n2\n")
    with pytest.raises(StageError) as caught:
        run_count(out, cfg=cfg)
    assert f"\n  source {source}: it has changed\n" in str(caught.value)


def test_a_changed_stage_version_is_refused(out):
    run_count(out)
    with pytest.raises(StageError, match="version of the stage: 1 -> 2"):
        run_stage(Stage(COUNT.function, version=2), CountConfig(), {}, out)


@pytest.mark.parametrize("replace", ["never", "changed", "always"])
def test_a_folder_with_other_files_is_never_touched(out, replace):
    storage.write_text(storage.join(out, "thesis.doc"), "x")
    with pytest.raises(StageError) as caught:
        run_count(out, replace=replace)
    assert str(caught.value) == (
        f"{out}: this folder holds files that no stage wrote (thesis.doc). count-numbers writes "
        "only into an empty folder or its own. Choose another output folder."
    )
    assert names_in(out) == ["thesis.doc"]


@pytest.mark.parametrize("replace", ["never", "changed", "always"])
def test_the_output_of_another_stage_is_never_touched(out, tmp_path, replace):
    other = str(tmp_path / "sum")
    run_stage(ADD, AddConfig(), {"corpus": run_count(out)}, other)
    with pytest.raises(StageError) as caught:
        run_count(other, replace=replace)
    assert str(caught.value) == (
        f"{other}: this folder holds the output of add-numbers, not of count-numbers. "
        "Choose another output folder."
    )
    EvaluationReport.open(other, verify=True)


def test_a_file_as_output_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(StageError) as caught:
        run_count(str(path))
    assert str(caught.value) == (
        f"{path}: this is a file, but count-numbers needs a folder for its output."
    )


def test_two_processes_cannot_write_one_output(out):
    storage.make_dir(out)
    with (
        storage.lock(storage.join(out, ".lock")),
        pytest.raises(StageError, match="another process is writing the output of count-numbers"),
    ):
        run_count(out)


def test_a_truncated_output_is_not_reused_but_replaced_by_fresh(out):
    run_count(out)
    path = storage.join(out, "numbers-001.parquet")
    os.truncate(path, 10)
    with pytest.raises(ArtifactError, match=r"numbers-001\.parquet of this Corpus is truncated"):
        run_count(out)
    assert run_count(out, replace="always").manifest.summary == {"num_rows": 10}


def test_a_broken_manifest_is_replaced_by_fresh(out):
    run_count(out)
    path = storage.join(out, "manifest.json")
    storage.write_text(path, storage.read_text(path)[:-50])
    with pytest.raises(ArtifactError, match="this manifest cannot be read"):
        run_count(out)
    assert run_count(out, replace="always").manifest.summary == {"num_rows": 10}


def test_a_truncated_input_is_refused_before_work_starts(out, tmp_path):
    run_count(out)
    os.truncate(storage.join(out, "numbers-001.parquet"), 10)
    target = str(tmp_path / "sum")
    with pytest.raises(ArtifactError, match=r"numbers-001\.parquet of this Corpus is truncated"):
        run_stage(ADD, AddConfig(), {"corpus": out}, target)
    assert not storage.exists(target)


def test_a_missing_input(tmp_path):
    with pytest.raises(StageError) as caught:
        run_stage(ADD, AddConfig(), {}, str(tmp_path / "sum"))
    assert str(caught.value) == ("add-numbers: expected the inputs corpus (Corpus); found none.")


def test_a_stage_that_returns_nothing_is_a_defect(out):
    def forget(ctx: StageContext, cfg: CountConfig) -> Corpus:
        """Forget to finish."""

    with pytest.raises(TypeError, match="forget returned NoneType, expected Corpus"):
        run_stage(Stage(forget), CountConfig(), {}, out)
    assert not storage.exists(storage.join(out, "manifest.json"))


# --------------------------------------------------------------------------------------- plan


def test_the_plan_tells_what_would_happen(out, monkeypatch):
    recipe = make_recipe(COUNT, CountConfig(), {}, 0)
    recipe_without_inputs = {key: value for key, value in recipe.items() if key != "inputs"}
    assert plan_stage(COUNT, recipe, out).status == "run"
    fail_at(monkeypatch, 2)
    with pytest.raises(DataError):
        run_count(out)
    assert plan_stage(COUNT, recipe, out).status == "resume"
    monkeypatch.delenv("TOY_FAIL_SHARD")
    run_count(out)
    assert plan_stage(COUNT, recipe, out).status == "reuse"
    assert plan_stage(COUNT, recipe, out, replace="always").status == "replace"
    assert plan_stage(COUNT, recipe_without_inputs, out).status == "reuse"
