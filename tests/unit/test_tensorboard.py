"""Curves for TensorBoard, read back with its own reader."""

import importlib.util

import pytest

from difflm_core.config import RuntimeConfig
from difflm_core.config_file import build_config
from difflm_core.errors import ConfigError
from difflm_core.progress import Progress
from difflm_core.stages.pipeline import fit_pipeline, plan_pipeline, run_pipeline
from difflm_core.tensorboard import TensorBoard, require_tensorboard
from tests.unit.stage_runs import run_count
from tests.unit.toy_pipeline import TOY_STAGES

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs the extra `tracking`"
)


def curves(folder):
    """Steps and values of each curve in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def train(folder, first, last, loss, stop_at=None):
    """Report a training from a step to another one."""
    sink = TensorBoard(str(folder))
    sink.interval_seconds = 0.0
    progress = Progress([sink])
    progress.event("stage_started", stage="train-vae")
    with progress.track("Training", last, "steps", first, {"tokens": 64}) as bar:
        for step in range(first + 1, last + 1):
            bar.advance(1, loss=loss)
            if step % 2 == 0:
                progress.event("evaluation", phase="joint", step=step, score=step / 4)
    sink.close()


@needs_tensorboard
def test_metrics_rates_and_evaluations_become_curves(tmp_path):
    train(tmp_path, 0, 4, 0.5)
    found = curves(tmp_path)
    assert set(found) == {"loss", "steps_per_second", "tokens_per_second", "evaluation/score"}
    # The last state of a task is written again when it ends.
    assert found["loss"] == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5), (4, 0.5)]
    assert found["evaluation/score"] == [(2, 0.5), (4, 1.0)]
    assert found["tokens_per_second"][-1][1] == pytest.approx(
        64 * found["steps_per_second"][-1][1], rel=1e-4
    )


@needs_tensorboard
def test_a_training_that_continues_replaces_what_it_repeats(tmp_path):
    train(tmp_path, 0, 6, 0.5)
    train(tmp_path, 3, 5, 0.25)
    assert curves(tmp_path)["loss"] == [
        *[(1, 0.5), (2, 0.5)],
        *[(4, 0.25), (5, 0.25), (5, 0.25)],
    ]


@needs_tensorboard
def test_a_task_that_lost_its_worker_replaces_what_it_repeats(tmp_path):
    sink = TensorBoard(str(tmp_path))
    sink.interval_seconds = 0.0
    for loss, first in ((0.5, 0), (0.25, 2)):
        with Progress([sink]).track("Training", 4, "steps", first) as bar:
            bar.advance(1, loss=loss)
            bar.advance(1, loss=loss)
    sink.close()
    found = curves(tmp_path)["loss"]
    assert found == [(1, 0.5), (3, 0.25), (4, 0.25), (4, 0.25)]


@needs_tensorboard
@pytest.mark.parametrize("remote", [False, True])
def test_a_stage_writes_curves_beside_its_artifact(tmp_path, remote):
    plain = run_count(str(tmp_path / "plain"))
    folder = f"memory://{tmp_path.name}/curves" if remote else str(tmp_path / "curves")
    runtime = RuntimeConfig(tensorboard=folder)
    artifact = run_count(str(tmp_path / "watched"), runtime=runtime)
    assert artifact.manifest.content_hash == plain.manifest.content_hash
    assert artifact.manifest.fingerprint == plain.manifest.fingerprint
    found = curves(f"{folder}/count-numbers")
    assert found["stage_finished/rows"] == [(0, 10.0)]
    assert found["stage_finished/summary/num_rows"] == [(0, 10.0)]
    assert found["stage_finished/cpu_hours"][0][1] > 0
    assert [step for step, _ in found["rows_per_second"]][-1] == 10


@needs_tensorboard
def test_a_stage_done_anew_replaces_its_curves(tmp_path):
    runtime = RuntimeConfig(tensorboard=str(tmp_path / "curves"))
    for _ in range(2):
        run_count(str(tmp_path / "out"), runtime=runtime, replace="always")
    found = curves(tmp_path / "curves" / "count-numbers")
    assert found["stage_finished/rows"] == [(0, 10.0)]


@needs_tensorboard
def test_curves_within_an_artifact_are_refused_before_any_work(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError) as caught:
        run_count(str(out), runtime=RuntimeConfig(tensorboard=f"{out}/sub/../curves"))
    assert str(caught.value) == (
        f"runtime.tensorboard = '{out}/sub/../curves': this folder is inside the artifact {out}, "
        "which holds nothing but its own files. Choose one beside it."
    )
    assert not out.exists()
    require_tensorboard(f"{out}-curves", str(out))
    with pytest.raises(ConfigError, match="is inside the artifact s3://b/out,"):
        require_tensorboard("s3://b/out/curves", "s3://b/out")
    require_tensorboard("s3://b/out-curves", "s3://b/out")


@pytest.fixture
def without_tensorboard(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "tensorboard" else find_spec(name)
    )


def test_without_the_package_the_message_says_what_to_install(tmp_path, without_tensorboard):
    config = build_config(
        {
            "data": {"source": "none.csv"},
            "output": str(tmp_path / "run"),
            "runtime": {"tensorboard": "curves"},
        }
    )
    expected = (
        "runtime.tensorboard = 'curves': TensorBoard is not installed here, so nothing can be "
        "written for it. Install it: pip install 'difflm-on-ray[tracking]'; or leave the setting "
        "out."
    )
    for refuse in (
        lambda: run_count(str(tmp_path / "out"), runtime=config.runtime),
        lambda: plan_pipeline(config, stages=TOY_STAGES),
        lambda: run_pipeline(config, stages=TOY_STAGES),
        lambda: fit_pipeline(config, str(tmp_path / "model")),
    ):
        with pytest.raises(ConfigError) as caught:
            refuse()
        assert str(caught.value) == expected
    assert list(tmp_path.iterdir()) == []
