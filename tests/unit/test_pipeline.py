import multiprocessing
import os
from pathlib import Path

import pytest

from difflm_core import storage
from difflm_core.artifacts import GeneratorBundle, find_artifacts
from difflm_core.config_file import build_config, load_config
from difflm_core.errors import ArtifactError, ConfigError, DataError, StageError
from difflm_core.stages.pipeline import fit_pipeline, plan_pipeline, run_pipeline
from tests.unit.toy_pipeline import TOY_STAGES

STAGES = [stage.name for stage in TOY_STAGES]
FOLDERS = ["corpus", "generator", "latents", "report", "synthetic", "vae"]


@pytest.fixture
def values(tmp_path):
    (tmp_path / "data.csv").write_text("a\n1\n22\n")
    return {
        "data": {"source": str(tmp_path / "data.csv")},
        "output": str(tmp_path / "run"),
        "seed": 4,
    }


def run(values, **options):
    return run_pipeline(build_config(values), stages=TOY_STAGES, **options)


def plan(values, **options):
    plans = plan_pipeline(build_config(values), stages=TOY_STAGES, **options)
    return [plan.status for plan in plans]


def statuses(results):
    return [result.status for result in results]


def hashes(run_uri):
    return {name: item.content_hash for name, item in find_artifacts(run_uri).items()}


def test_all_stages_in_one_directory(values):
    results = run(values)
    assert [result.stage for result in results] == STAGES
    assert statuses(results) == ["run"] * 6
    assert list(find_artifacts(values["output"])) == FOLDERS
    assert results[-1].artifact.manifest.summary == {"ratio": 1.0, "rows": 3}
    assert load_config(str(Path(values["output"]) / "run.yaml")) == build_config(values)


def test_running_again_reuses_everything(values):
    run(values)
    before = hashes(values["output"])
    assert statuses(run(values)) == ["reuse"] * 6
    assert hashes(values["output"]) == before


def test_each_stage_is_announced(values):
    seen = []
    run(values, on_stage=lambda number, total, plan: seen.append((number, total, plan.stage)))
    assert seen == [(number, 6, name) for number, name in enumerate(STAGES, start=1)]


def test_a_plan_changes_nothing(values):
    assert plan(values) == ["run"] * 6
    assert not storage.exists(values["output"])
    run(values)
    assert plan(values) == ["reuse"] * 6
    assert plan(values, replace="always") == ["replace"] * 6


def _run_and_be_killed(values, stage):
    os.environ["TOY_KILL"] = stage
    run(values)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_in_any_stage_ends_as_an_undisturbed_one(values, stage, tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=_run_and_be_killed, args=(values, stage)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -9
    index = STAGES.index(stage)
    expected = ["reuse"] * index + ["resume"] + ["run"] * (5 - index)
    assert plan(values) == expected
    assert statuses(run(values)) == expected
    run({**values, "output": str(tmp_path / "other")})
    assert hashes(values["output"]) == hashes(str(tmp_path / "other"))


def test_a_changed_setting_is_refused_before_any_work(values):
    run(values)
    storage.remove_tree(storage.join(values["output"], "corpus"))
    with pytest.raises(StageError) as caught:
        run({**values, "diffusion": {"batch_rows": 7}})
    assert str(caught.value) == (
        f"{values['output']}/generator: train-diffusion has finished here with other settings:\n"
        "  diffusion.batch_rows: 1024 -> 7\n"
        "Choose another output folder, or replace what is there: --replace-changed redoes what "
        "has changed, --fresh everything."
    )
    assert not storage.exists(storage.join(values["output"], "corpus"))


def test_replacing_what_changed_keeps_the_rest(values, tmp_path):
    run(values)
    changed = {**values, "diffusion": {"batch_rows": 7}}
    run(changed, replace="changed")
    made = find_artifacts(values["output"])
    created = {name: manifest.recipe["config"] for name, manifest in made.items()}
    assert created["generator"] == {"diffusion": {**created["generator"]["diffusion"]}}
    assert created["generator"]["diffusion"]["batch_rows"] == 7
    run({**changed, "output": str(tmp_path / "other")})
    assert hashes(values["output"]) == hashes(str(tmp_path / "other"))


def test_replacing_what_changed_trains_no_stage_before_it(values, monkeypatch):
    run(values)
    monkeypatch.setenv("TOY_STOP", "train-vae")
    changed = {**values, "diffusion": {"batch_rows": 7}}
    assert statuses(run(changed, replace="changed"))[:4] == ["reuse", "reuse", "reuse", "replace"]


def test_a_fresh_run_that_is_stopped_never_mixes_with_the_old_one(values, monkeypatch):
    run({**values, "seed": 1})
    with monkeypatch.context() as patch:
        patch.setenv("TOY_STOP", "train-vae")
        with pytest.raises(KeyboardInterrupt):
            run(values, replace="always")
    assert list(find_artifacts(values["output"])) == ["corpus"]
    run(values)
    assert {m.recipe["seed"] for m in find_artifacts(values["output"]).values()} == {4}


def test_a_truncated_artifact_stops_the_next_run(values):
    run(values)
    os.truncate(storage.join(values["output"], "synthetic", "records.parquet"), 20)
    with pytest.raises(ArtifactError, match=r"records\.parquet of this SyntheticData is truncated"):
        run(values)


def test_without_a_source(values):
    del values["data"]
    with pytest.raises(ConfigError, match=r"data\.source is missing"):
        run(values)


def test_a_missing_source_leaves_no_complete_artifact(values):
    values["data"] = {"source": "/none.csv"}
    with pytest.raises(DataError, match=r"/none\.csv: there is no such file\."):
        run(values)
    assert find_artifacts(values["output"]) == {}


# ---------------------------------------------------------------------------------------- fit


def fit(values, output, **options):
    return fit_pipeline(build_config(values), output, stages=TOY_STAGES, **options)


def test_fit_leaves_the_generator_alone(values, tmp_path):
    seen = []
    output = str(tmp_path / "model")
    bundle = fit(
        values, output, on_stage=lambda number, total, plan: seen.append((number, total, plan.uri))
    )
    assert isinstance(bundle, GeneratorBundle)
    assert bundle.uri == output
    work = f"{output}.run"
    assert seen == [
        (1, 4, f"{work}/corpus"),
        (2, 4, f"{work}/vae"),
        (3, 4, f"{work}/latents"),
        (4, 4, output),
    ]
    assert not storage.exists(work)


@pytest.mark.parametrize("stage", STAGES[:4])
def test_a_stopped_fit_continues(values, tmp_path, monkeypatch, stage):
    output = str(tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setenv("TOY_STOP", stage)
        with pytest.raises(KeyboardInterrupt):
            fit(values, output)
    bundle = fit(values, output)
    other = fit(values, str(tmp_path / "other"))
    assert bundle.manifest.content_hash == other.manifest.content_hash


def test_a_finished_model_is_not_trained_again_unasked(values, tmp_path):
    output = str(tmp_path / "model")
    fit(values, output)
    with pytest.raises(StageError) as caught:
        fit(values, output)
    assert str(caught.value) == (
        f"{output}: this folder holds a finished model. Choose another output folder, or add "
        "--fresh to train it anew."
    )
    changed = {**values, "seed": 9}
    assert fit(changed, output, replace="always").manifest.recipe["seed"] == 9


def test_a_folder_with_other_files_is_refused_before_training(values, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.doc").write_text("x")
    with pytest.raises(StageError, match=r"holds files that no stage wrote \(thesis\.doc\)"):
        fit(values, str(tmp_path / "model"))
    assert not storage.exists(str(tmp_path / "model.run"))
