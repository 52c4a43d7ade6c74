"""The steps of the Dockerfile on this machine: from the files it copies to programs that start.

What this cannot show is the base image: the shared libraries that are not in the environment are
compared with those that it has.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.dockerfiles import DOCKERFILE, IGNORE, IMAGES, ROOT, is_sent, parse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# What Python's slim images and libgomp1 bring; everything else must be in the environment.
LIBRARIES_OF_THE_IMAGE = {
    "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libgomp.so.1", "libm.so.6", "libpthread.so.0",
    "librt.so.1", "libstdc++.so.6", "libutil.so.1", "libz.so.1",
}  # fmt: skip


def environment(home, **more):
    """Nothing of this session that an image would not have, and no compiler."""
    left_out = ("PYTHON", "RAY_", "VIRTUAL_ENV", "HF_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    kept["PIP_CACHE_DIR"] = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {**kept, "HOME": str(home), "CC": "/bin/false", "CXX": "/bin/false", **more}


def copy_as_docker_does(stage, target):
    ignore = IGNORE.read_text("utf-8")
    for source, _ in stage.copied:
        path = ROOT / source
        for file in [path] if path.is_file() else path.rglob("*"):
            name = file.relative_to(ROOT).as_posix()
            if file.is_file() and is_sent(name, ignore):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / name)


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    """An environment made as the Dockerfile makes it, each step with the files that it has."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "home").mkdir()
    stages = {stage.name: stage for stage in parse(DOCKERFILE.read_text("utf-8"))[1]}
    for step, stage in (("dependencies", "dependencies"), ("project", "sources")):
        copy_as_docker_does(stages[stage], folder / stage)
        # An image compiles what it installs; here that would take minutes, and show nothing.
        done = subprocess.run(
            ["bash", folder / stage / "components" / "images" / "install.sh", step, "venv"],
            cwd=folder,
            env=environment(folder / "home", PIP_NO_COMPILE="1"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    shutil.rmtree(folder / "sources")
    yield folder / "venv"
    shutil.rmtree(folder)


def test_the_programs_start_outside_the_sources(venv, tmp_path):
    done = subprocess.run(
        ["bash", IMAGES / "smoke.sh"],
        cwd=tmp_path,
        env=environment(tmp_path, PATH=f"{venv / 'bin'}:{os.environ['PATH']}", HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    locked = dict(re.findall(r"^(\w+)==(.+)$", (ROOT / "requirements.lock").read_text(), re.M))
    assert f"ray, version {locked['ray']}\n" in done.stdout
    found = re.search(r"^torch ([\d.]+)\S* deepspeed (\S+) kfp (\S+)$", done.stdout, re.M)
    assert found.groups() == (locked["torch"], locked["deepspeed"], locked["kfp"])


def test_every_file_of_the_packages_is_installed(venv):
    listed = subprocess.run(
        ["git", "ls-files", "difflm_core", "components", "pipelines"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = [
        name for name in listed.stdout.splitlines() if not name.startswith("components/images")
    ]
    assert "difflm_core/evaluation/templates/report.html.j2" in files
    assert "pipelines/configs/adult.yaml" in files
    (packages,) = venv.glob("lib/python3*/site-packages")
    assert [name for name in files if not (packages / name).is_file()] == []


def test_every_version_is_the_locked_one(venv):
    frozen = subprocess.run(
        [venv / "bin" / "python", "-m", "pip", "list", "--format=freeze"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    def versions(text):
        pairs = re.findall(r"^([\w.-]+)==([^+\s]+)", text, re.M)
        return {re.sub("[-_.]+", "-", name).lower(): version for name, version in pairs}

    locked = versions((ROOT / "requirements.lock").read_text("utf-8"))
    others = dict(versions(frozen).items() - locked.items())
    assert set(others) <= {"difflm-on-ray", "pip", "setuptools"}


def test_the_image_has_the_libraries_that_the_environment_needs(venv):
    files = [str(path) for path in venv.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 100
    shown = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    found = re.findall(r"^\t(\S+) => (/\S+|not found)", shown, re.M)
    # A library that another one of its package loads before is there, though not found alone.
    inside = {Path(file).name for file in files}
    outside = {
        name
        for name, path in found
        if not Path(path).is_relative_to(venv) and not (path == "not found" and name in inside)
    }
    assert outside - LIBRARIES_OF_THE_IMAGE == set()
    assert "libgomp.so.1" in outside, "libgomp1 can go from the Dockerfile"
