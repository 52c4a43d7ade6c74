"""The script that builds the images: the commands it would run, and what it refuses."""

import re
import shlex
import shutil
import subprocess

import pytest

from tests.images.dockerfiles import IMAGES, ROOT

SCRIPT = "components/images/build.sh"


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit, of all that the script reads."""
    root = tmp_path / "a checkout"
    (root / "components" / "images").mkdir(parents=True)
    shutil.copy(IMAGES / "build.sh", root / SCRIPT)
    shutil.copy(ROOT / "pyproject.toml", root)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def build(checkout, *arguments):
    return subprocess.run(
        ["bash", checkout / SCRIPT, *arguments],
        cwd=checkout.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def printed(checkout, *arguments):
    done = build(checkout, "--dry-run", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def revision(checkout):
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()


def command(revision, prefix="", suffix="", more=(), mark=""):
    start = ["env", "DOCKER_BUILDKIT=1", "docker", "build"]
    start += ["--file", "components/images/Dockerfile"]
    start += ["--build-arg", "VERSION=0.1.0", "--build-arg", f"REVISION={revision}{mark}", *more]
    version = ["--tag", f"{prefix}difflm:0.1.0{suffix}"]
    return [*start, *version, "--tag", f"{prefix}difflm:{revision[:12]}{mark}{suffix}", "."]


GPU = ["--build-arg", "TORCH_INDEX="]


def test_both_images_by_version_and_revision(checkout):
    commit = revision(checkout)
    assert printed(checkout) == [command(commit), command(commit, suffix="-gpu", more=GPU)]


def test_pushing_names_every_tag_after_both_builds(checkout):
    commit = revision(checkout)
    prefix = "registry.example.com:5000/team/"
    commands = printed(checkout, "--push", "--registry", prefix.rstrip("/"))
    tags = [f"{prefix}difflm:{tag}" for tag in ("0.1.0", commit[:12])]
    assert commands == [
        command(commit, prefix),
        command(commit, prefix, "-gpu", GPU),
        *[["docker", "push", tag] for tag in [*tags, *[f"{tag}-gpu" for tag in tags]]],
    ]


def test_nothing_is_pushed_unless_asked(checkout):
    commands = printed(checkout, "--registry", "registry.example.com")
    assert [line[2:4] for line in commands] == [["docker", "build"]] * 2


def test_one_image_with_options(checkout):
    secret = checkout.parent / "pip $(x).conf"
    secret.write_text("[global]\n")
    arguments = ["--only", "cpu", "--torch-index", "https://torch.example.com/whl/cpu"]
    arguments += ["--base", "registry.example.com/python@sha256:0f", "--pip-config", secret.name]
    more = ["--build-arg", "TORCH_INDEX=https://torch.example.com/whl/cpu"]
    more += ["--build-arg", "PYTHON_IMAGE=registry.example.com/python@sha256:0f"]
    more += ["--secret", f"id=pip.conf,src={secret}"]
    assert printed(checkout, *arguments) == [command(revision(checkout), more=more)]


def test_the_mirror_of_torch_for_cpus_is_not_that_of_gpus(checkout):
    (gpu,) = printed(checkout, "--only", "gpu", "--torch-index", "https://torch.example.com/cpu")
    assert gpu == command(revision(checkout), suffix="-gpu", more=GPU)


@pytest.mark.parametrize("change", ["new.py", "pyproject.toml"])
def test_changes_without_a_commit_are_refused(checkout, change):
    with (checkout / change).open("a") as file:
        file.write("\n# changed\n")
    refused = build(checkout, "--dry-run")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "build.sh: files are changed or not committed (git status). Commit them, or add "
        "--allow-dirty.\n"
    )
    commands = printed(checkout, "--only", "cpu", "--allow-dirty")
    assert commands == [command(revision(checkout), mark="-dirty")]
    pushed = build(
        checkout, "--dry-run", "--allow-dirty", "--push", "--registry", "registry.example.com"
    )
    assert (pushed.returncode, pushed.stdout) == (1, "")
    assert "not pushed" in pushed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--registry"], "--registry needs a value; see --help"),
        (["--registry", "--push"], "--registry needs a value; see --help"),
        (["--registry", ""], "--registry needs a value; see --help"),
        (["--registry", "https://example.com"], "--registry is a host and a path, such as"),
        (["--registry", "a b"], "--registry is a host and a path, such as"),
        (["--registry", "registry.example.com/"], "--registry is a host and a path, such as"),
        (["--push"], "--push needs --registry"),
        (["--only", "tpu"], "--only is cpu or gpu, not 'tpu'"),
        (["--base", "python"], "--base needs a tag that stays the same, or a digest"),
        (["--base", "host:5000/python"], "--base needs a tag that stays the same, or a digest"),
        (["--base", "python:latest"], "--base needs a tag that stays the same, or a digest"),
        (["--pip-config", "none.conf"], "--pip-config: there is no file 'none.conf'"),
        (["--pushh"], "unknown argument '--pushh'; see --help"),
        (["difflm"], "unknown argument 'difflm'; see --help"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(checkout, arguments, message):
    done = build(checkout, "--dry-run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"build.sh: {message}")
    assert done.stderr.count("\n") == 1


def test_the_help_names_every_option(checkout):
    done = build(checkout, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    text = (IMAGES / "build.sh").read_text("utf-8")
    options = [
        word
        for line in text.split("while [[")[1].split("esac")[0].splitlines()
        if line.startswith("    --") and ")" in line
        for word in [line.split(")")[0].strip()]
    ]
    assert len(options) == 8
    assert [option for option in options if f"  {option}" not in done.stdout] == []
    page = (IMAGES / "README.md").read_text("utf-8")
    named = set(re.findall(r"build\.sh.*?(--[\w-]+)", page))
    assert len(named) >= 2
    assert named <= set(options)


def test_docker_is_called_and_its_failure_ends_the_script(checkout, monkeypatch):
    folder = checkout.parent / "bin"
    folder.mkdir()
    (folder / "docker").write_text('#!/bin/sh\necho "$DOCKER_BUILDKIT $@" >&2\nexit 7\n')
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    done = build(checkout)
    assert done.returncode == 7
    (called,) = done.stderr.splitlines()
    assert called.split()[:2] == ["1", "build"]
