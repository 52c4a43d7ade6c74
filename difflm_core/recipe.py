"""Recipes: what decides the content of a stage's output, as JSON values, with its fingerprint.

A recipe holds the stage and its version, its section of the configuration, the seed, the content
hashes of its input artifacts and of the source files it reads. Equal recipes give equal content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from difflm_core import storage
from difflm_core.config_file import flatten


def source_hashes(sources: Sequence[str]) -> dict[str, str]:
    """Hash the files behind paths, folders, globs or URIs; what is not there has no entry."""
    return {uri: storage.sha256(uri) for source in sources for uri in _source_files(source)}


def _source_files(source: str) -> list[str]:
    if storage.is_dir(source):
        return [storage.join(source, info.path) for info in storage.list_files(source)]
    return [source] if storage.exists(source) else storage.glob(source)


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """Hash a recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name every difference of two recipes: key, old value, new value."""
    lines: list[str] = []
    before, after = flatten(old), flatten(new)
    unset = object()
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key, unset), after.get(key, unset)
        if was == now:
            continue
        group, _, rest = key.partition(".")
        if group == "inputs" and rest:
            lines.append(f"input {rest}: its content has changed")
        elif group == "sources" and rest:
            what = "is new" if was is unset else "is gone" if now is unset else "has changed"
            lines.append(f"source {rest}: it {what}")
        elif group == "version":
            lines.append(f"version of the stage: {was} -> {now}")
        elif group != "sources" and group != "inputs":
            shown = ["(not set)" if value is unset else json.dumps(value) for value in (was, now)]
            lines.append(f"{rest or key}: {shown[0]} -> {shown[1]}")
    return lines
