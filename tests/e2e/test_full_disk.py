"""A full disk: one clear error, nothing half-written, and the run goes on later."""

import subprocess

import pytest

from tests.e2e.small_runs import complete
from tests.people import people_config

pytestmark = pytest.mark.e2e


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a size that can be changed: `small_disk(num_bytes)` gives its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size):
        options = f"size={size}" if not folder.is_mount() else f"remount,size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system needs the rights of root")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(small_disk, difflm, tmp_path):
    disk = small_disk("256k")
    people_config(tmp_path)
    arguments = ("-q", "run", "run.yaml", "--output", str(disk / "run"))
    code, _, err = difflm(*arguments)
    assert code == 2
    assert err == (
        f"Error: {disk}/run/vae: no space is left for the output of train-vae. Free some, then run "
        "the same command again: what was written is kept, and it continues there.\n"
    )
    assert complete(disk) == ["corpus"]
    small_disk("64m")
    code, _, err = difflm(*arguments)
    assert (code, err) == (0, "")
    assert complete(disk) == ["corpus", "generator", "latents", "report", "synthetic", "vae"]


def test_a_sample_on_a_full_disk_leaves_nothing(small_disk, difflm, people_run):
    disk = small_disk("16k")
    sample = ("-q", "sample", str(people_run), "-n", "400", "--max-attempts", "1000")
    code, _, err = difflm(*sample, "-o", str(disk / "o.csv"))
    assert (code, err) == (
        2,
        f"Error: {disk}/o.csv: writing failed: No space left on device; nothing was left under "
        "this name; free space or check the permissions, and run again\n",
    )
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("moment", ["corpus/train/part-00000.parquet", "report/report.json"])
def test_a_full_disk_without_a_disk(difflm, tmp_path, monkeypatch, moment):
    """The same on any machine: writing one file fails as on a full disk."""
    import contextlib
    import errno
    import os

    from difflm_core import storage

    original = storage.atomic_output

    @contextlib.contextmanager
    def full(uri):
        with original(uri) as path:
            yield path
            if str(uri).endswith(moment):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    people_config(tmp_path)
    monkeypatch.setattr(storage, "atomic_output", full)
    code, _, err = difflm("-q", "run", "run.yaml")
    folder = moment.partition("/")[0]
    assert code == 2
    assert err.startswith(f"Error: {tmp_path}/run/{folder}: no space is left for the output of ")
    assert folder not in complete()
    monkeypatch.setattr(storage, "atomic_output", original)
    assert difflm("-q", "run", "run.yaml")[0] == 0
