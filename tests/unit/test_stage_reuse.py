"""A stage run again: reused, continued, replaced."""

import contextlib
import errno
import multiprocessing
import os

import pytest

from difflm_core import storage
from difflm_core.artifacts import Corpus
from difflm_core.errors import DataError, StageError
from difflm_core.stage import Stage, StageContext, run_stage
from tests.unit.stage_runs import CountingLauncher, fail_at, names_in, run_count
from tests.unit.toy_stages import CountConfig


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
