"""What an output folder holds, and what a stage may do with it.

A folder is empty, finished (it has a manifest), begun (it has `started.json`), or none of ours.
Only the first, and an earlier output of the same stage, may be written to.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from difflm_core import storage
from difflm_core.artifacts import LOCK_NAME, MANIFEST_NAME, STARTED_NAME, read_manifest
from difflm_core.errors import ArtifactError, StageError
from difflm_core.recipe import describe_changes, fingerprint

PlanStatus = Literal["run", "reuse", "resume", "replace"]
# When an earlier output of the same stage gives way: never (a changed one is refused), when its
# settings or inputs have changed, or always.
Replace = Literal["never", "changed", "always"]


@dataclass(frozen=True)
class OutputPlan:
    """What a stage would do with its output folder."""

    stage: str
    uri: str
    status: PlanStatus


def plan_output(
    stage: str, kind: str, recipe: Mapping[str, Any], uri: str, replace: Replace = "never"
) -> OutputPlan:
    """Decide what to do with an output folder.

    Args:
        stage: name of the stage that wants to write.
        kind: kind of artifact it makes, for messages.
        recipe: what decides the output; without "inputs" (not made yet), it is compared in the
            rest.
        uri: the folder.
        replace: when an earlier output of the stage gives way.

    Raises:
        StageError: it holds something that must not be replaced, or the output of another
            configuration that is not to be replaced.
        ArtifactError: its manifest is damaged.
    """
    if storage.exists(uri) and not storage.is_dir(uri):
        raise StageError(f"{uri}: this is a file, but {stage} needs a folder for its output.")
    names = [info.path for info in storage.list_files(uri) if info.path != LOCK_NAME]
    if not names:
        return OutputPlan(stage, uri, "run")
    found = _found_recipe(stage, kind, uri, names, replace)
    if found.get("stage") != stage:
        raise StageError(
            f"{uri}: this folder holds the output of {found.get('stage')}, not of {stage}. "
            "Choose another output folder."
        )
    if replace == "always" or found.get("discarded"):
        return OutputPlan(stage, uri, "replace")
    finished = MANIFEST_NAME in names
    expected = {"inputs": found.get("inputs"), **recipe}
    if fingerprint(found) == fingerprint(expected):
        return OutputPlan(stage, uri, "reuse" if finished else "resume")
    if replace == "changed":
        return OutputPlan(stage, uri, "replace")
    state = "has finished" if finished else "was begun"
    changes = "".join(f"  {line}\n" for line in describe_changes(found, expected))
    raise StageError(
        f"{uri}: {stage} {state} here with other settings:\n{changes}"
        "Choose another output folder, or replace what is there: --replace-changed redoes what "
        "has changed, --fresh everything."
    )


def _found_recipe(
    stage: str, kind: str, uri: str, names: Sequence[str], replace: Replace
) -> dict[str, Any]:
    if MANIFEST_NAME in names:
        try:
            return read_manifest(uri, kind).recipe
        except ArtifactError:
            if replace == "always" and _manifest_names(uri, stage):
                return {"stage": stage}
            raise
    if STARTED_NAME in names:
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
            return dict(json.loads(storage.read_text(storage.join(uri, STARTED_NAME))))
    shown = ", ".join(sorted({name.partition("/")[0] for name in names})[:3])
    raise StageError(
        f"{uri}: this folder holds files that no stage wrote ({shown}). {stage} writes only into "
        "an empty folder or its own. Choose another output folder."
    )


def _manifest_names(uri: str, stage: str) -> bool:
    """Tell whether a damaged manifest still says which stage wrote it."""
    try:
        return f'"{stage}"' in storage.read_text(storage.join(uri, MANIFEST_NAME))
    except UnicodeDecodeError:
        return False


def discard_output(uri: str, stage: str) -> None:
    """Empty an output folder of a stage, so that a kill in between leaves nothing half in use."""
    mark = {"stage": stage, "discarded": True}
    storage.write_text(storage.join(uri, STARTED_NAME), json.dumps(mark) + "\n")
    storage.remove(storage.join(uri, MANIFEST_NAME))
    for info in storage.list_files(uri):
        if info.path not in (STARTED_NAME, LOCK_NAME):
            storage.remove(storage.join(uri, info.path))


@contextlib.contextmanager
def locked_output(stage: str, uri: str) -> Generator[None]:
    """Keep other processes of this machine from writing the same output.

    Raises:
        StageError: another process is writing it.
    """
    try:
        with storage.lock(storage.join(uri, LOCK_NAME)):
            yield
    except storage.LockedError:
        raise StageError(
            f"{uri}: another process is writing the output of {stage} here. Wait for it, or "
            "choose another output folder."
        ) from None
