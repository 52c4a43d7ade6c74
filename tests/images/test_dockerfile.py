"""What can be known of the images without building one. Every check is seen failing, too."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from components.cluster_config import ClusterConfig
from tests.images.dockerfiles import DOCKERFILE, IGNORE, IMAGES, ROOT, bases, is_sent, parse

TEXT = DOCKERFILE.read_text("utf-8")
IGNORED = IGNORE.read_text("utf-8")
SCRIPTS = [*sorted(IMAGES.glob("*.sh")), ROOT / ".ci" / "run"]
COMPILERS = re.compile(
    r"^(gcc|g\+\+|clang|cmake|make|build-essential|cuda.*|.*-dev|ninja.*|rustc|cargo)(-\d+)?$"
)
LABELS = ("title", "description", "licenses", "version", "revision")


def tool(name):
    """A program of the development dependencies, beside this Python."""
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    assert found, f"{name} is not installed: make setup"
    return found


def lint(text, *, cwd):
    (cwd / "Dockerfile").write_text(text, "utf-8")
    done = subprocess.run(
        [tool("hadolint"), "--no-color", "--failure-threshold", "style", "Dockerfile"],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def missing(text, ignore):
    """What a Dockerfile copies that is not there, or that Docker is not sent."""
    found = []
    for stage in parse(text)[1]:
        for source, _ in stage.copied:
            path = ROOT / source
            files = [path] if path.is_file() else [*path.rglob("*")] if path.is_dir() else []
            kept = [
                file
                for file in files
                if file.is_file() and is_sent(file.relative_to(ROOT).as_posix(), ignore)
            ]
            if not kept:
                found.append(source)
    return found


def defects(text):
    """What an image must not be, of its last stage."""
    stage = parse(text)[1][-1]
    user, _, group = stage.user.partition(":")
    last_root = max(i for i, step in enumerate(stage.steps) if step[0] in ("COPY", "ADD"))
    found = []
    if not user.isdigit() or user == "0":
        found.append("user")  # a name cannot be checked by runAsNonRoot
    if group != "0":
        found.append("group")
    if [word for word, _ in stage.steps].index("USER") < last_root:
        found.append("files of the user")
    if any(COMPILERS.match(package) for package in stage.debian_packages):
        found.append("compiler")
    if not stage.all("HEALTHCHECK") or "NONE" in stage.all("HEALTHCHECK"):
        found.append("healthcheck")
    if stage.all("ENTRYPOINT"):
        found.append("entrypoint")
    if not {"wget", "libgomp1"} <= set(stage.debian_packages):
        found.append("package")
    found += [
        label for label in LABELS if not stage.labels.get(f"org.opencontainers.image.{label}")
    ]
    for base in bases(text):
        if not re.search(r"@sha256:|:(?!latest)[\w.-]+$", base):
            found.append("base")
    return sorted(set(found))


def test_there_is_one_dockerfile():
    assert [path for path in ROOT.rglob("*Dockerfile*") if ".venv" not in path.parts] == [
        DOCKERFILE
    ]


def test_hadolint_finds_nothing(tmp_path):
    assert lint(TEXT, cwd=tmp_path) == (0, "")


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("USER 1000:0\n", "USER root\n", "DL3002"),
        ("# hadolint ignore=DL3008\n", "", "DL3008"),
        ("ARG PYTHON_IMAGE=python:3.11-slim-bookworm", "FROM python:latest AS x", "DL3007"),
        ("rm -rf /var/lib/apt/lists/*", "true", "DL3009"),
    ],
)
def test_hadolint_finds_a_defect(before, after, rule, tmp_path):
    assert before in TEXT
    status, output = lint(TEXT.replace(before, after), cwd=tmp_path)
    assert (status, rule in output) == (1, True)


def test_all_that_is_copied_is_there():
    assert missing(TEXT, IGNORED) == []


def test_a_file_that_is_not_there_is_found():
    assert missing(TEXT + "COPY no/such.txt /\n", IGNORED) == ["no/such.txt"]


@pytest.mark.parametrize("line", ["!pyproject.toml", "!pipelines", "!LICENSE"])
def test_a_file_that_is_not_sent_is_found(line):
    assert f"\n{line}\n" in IGNORED
    gone = missing(TEXT, IGNORED.replace(f"\n{line}\n", "\n"))
    assert set(gone) == {line.removeprefix("!")}


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("difflm_core/evaluation/templates/report.css", True),
        ("components/images/install.sh", True),
        ("pipelines/configs/adult.yaml", True),
        ("difflm_core/__pycache__/api.cpython-311.pyc", False),
        ("tests/conftest.py", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("runs/adult/report/report.html", False),
    ],
)
def test_what_docker_is_sent(path, sent):
    assert is_sent(path, IGNORED) is sent


def test_all_that_docker_is_sent_is_copied():
    copied = {source for stage in parse(TEXT)[1] for source, _ in stage.copied}
    sent = {line[1:] for line in IGNORED.splitlines() if line.startswith("!")}
    assert sent <= copied


def test_the_image_has_no_defect():
    assert defects(TEXT) == []


@pytest.mark.parametrize(
    ("before", "after", "defect"),
    [
        ("USER 1000:0", "USER 0:0", "user"),
        ("USER 1000:0", "USER difflm:0", "user"),
        ("USER 1000:0", "USER 1000", "group"),
        ("ENV PATH", "USER 1000:0\nENV PATH", "files of the user"),
        ("libgomp1 wget", "libgomp1 wget gcc", "compiler"),
        ("libgomp1 wget", "libgomp1 wget libpython3-dev", "compiler"),
        ("libgomp1 wget", "libgomp1", "package"),
        ("libgomp1 wget", "wget", "package"),
        ("HEALTHCHECK", "HEALTHCHECK NONE\nARG", "healthcheck"),
        ("CMD [\"difflm\"", "ENTRYPOINT [\"difflm\"]\nCMD [\"difflm\"", "entrypoint"),
        ('image.licenses="Apache-2.0"', 'image.vendor="x"', "licenses"),
        (":3.11-slim-bookworm", ":latest", "base"),
        ("=python:3.11-slim-bookworm", "=registry.example.com:5000/python:latest", "base"),
        ("=python:3.11-slim-bookworm", "=python", "base"),
    ],
)  # fmt: skip
def test_a_defect_is_found(before, after, defect):
    assert before in TEXT
    assert defect in defects(TEXT.replace(before, after))


def test_the_stages_start_from_one_python():
    assert len(set(bases(TEXT))) == 1


def test_the_commands_are_those_that_the_project_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    last = parse(TEXT)[1][-1]
    assert last.command[0] in project["scripts"]
    assert last.labels["org.opencontainers.image.licenses"] == project["license"]
    assert last.labels["org.opencontainers.image.description"] == project["description"]


def test_image_lock_and_cluster_agree():
    locked = dict(
        re.findall(r"^([\w-]+)==(.+)$", (ROOT / "requirements.lock").read_text("utf-8"), re.M)
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    cluster = ClusterConfig()
    assert cluster.ray_version == locked["ray"]
    assert cluster.image == f"difflm:{project['version']}"
    script = (IMAGES / "install.sh").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (installed,) = re.findall(r"^EXTRAS=(\S+)$", script, re.M)
    (in_lock,) = re.findall(r"^EXTRAS := (\S+)$", makefile, re.M)
    assert installed == in_lock
    assert {*installed.split(","), "dev"} == set(project["optional-dependencies"])
    assert {"s3fs", "gcsfs", "kfp", "deepspeed", "lightgbm", "fastapi", "tensorboard"} <= set(
        locked
    )


def shell_defects(path):
    parsed = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    linted = subprocess.run([tool("shellcheck"), path], capture_output=True, text=True, check=False)
    return parsed.stderr + linted.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(script):
    assert shell_defects(script) == ""
    assert "\nset -euo pipefail\n" in script.read_text("utf-8")
    assert not re.search(r"(^|[;&|(])\s*eval\b", script.read_text("utf-8"), re.M)


@pytest.mark.parametrize(
    ("line", "defect"), [("if true; then", "syntax error"), ("rm $1", "SC2086")]
)
def test_a_defect_of_a_shell_script_is_found(line, defect, tmp_path):
    script = tmp_path / "script.sh"
    script.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{line}\n", "utf-8")
    assert defect in shell_defects(script)
