"""What a stage refuses, and what its plan tells before."""

import os

import pytest

from difflm_core import storage
from difflm_core.artifacts import Corpus, EvaluationReport
from difflm_core.config import RunConfig, SerializeConfig
from difflm_core.errors import ArtifactError, DataError, StageError
from difflm_core.stage import Stage, StageContext, make_recipe, plan_stage, run_stage
from tests.unit.stage_runs import CountingLauncher, fail_at, names_in, run_count
from tests.unit.toy_stages import ADD, COUNT, AddConfig, CountConfig


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
