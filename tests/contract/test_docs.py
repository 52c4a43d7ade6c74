"""Generated and hand-written references agree with the code."""

import re
from pathlib import Path

from difflm_core.artifacts import ARTIFACT_KINDS, Manifest
from difflm_core.config_file import config_markdown
from difflm_core.stages.pipeline import FOLDERS

ROOT = Path(__file__).parents[2]


def test_the_configuration_reference_is_up_to_date():
    written = (ROOT / "docs" / "config.md").read_text("utf-8")
    assert written == config_markdown(), "run `make docs`"


def test_the_artifact_reference_names_every_kind_and_key():
    text = (ROOT / "docs" / "artifacts.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `[\w-]+` \| `(\w+)/` \|", text, re.MULTILINE))
    assert rows == {kind: FOLDERS[ARTIFACT_KINDS[kind]] for kind in ARTIFACT_KINDS}
    missing = [key for key in Manifest.model_fields if f"`{key}`" not in text]
    assert missing == []


def test_every_make_target_that_ci_calls_exists():
    called = re.findall(r"^make ([\w-]+)", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert called == ["test", "check", "test-page", "images-check", "demo"]
    assert set(called) <= set(targets)
