"""Artifacts: what stages hand to each other. A directory is an artifact once it has a manifest.

    payload files      what later stages read; listed in the manifest with size and SHA-256
    config.yaml        the configuration that made it
    metrics.jsonl      progress, events, duration and memory (not reproducible, not listed)
    manifest.json      written last: its presence means that the artifact is complete
    started.json       present while the artifact is being made: who makes it, from what
    work/              leftovers for resuming (checkpoints), removed after the commit

`Manifest.content_hash` covers the payload alone, so two runs can be compared; times, durations and
versions stand apart in `Manifest.provenance`. Formats are safetensors, Parquet and JSON; nothing
is pickled. docs/artifacts.md lists the payload of each kind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from difflm_core import storage
from difflm_core.errors import ArtifactError

MANIFEST_NAME = "manifest.json"
CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.jsonl"
STARTED_NAME = "started.json"
LOCK_NAME = ".lock"
WORK_FOLDER = "work"
_NOT_PAYLOAD = frozenset({MANIFEST_NAME, CONFIG_NAME, METRICS_NAME, STARTED_NAME, LOCK_NAME})


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Record):
    """A payload file: path relative to the artifact, size, hash, and rows if it is a table."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None


class InputEntry(_Record):
    """An artifact that this one was made from."""

    uri: str
    kind: str
    content_hash: str
    manifest_sha256: str


class Provenance(_Record):
    """When, where and how long: what differs between two equal runs.

    Attributes:
        created_utc: when the artifact was complete.
        duration_seconds: time that its last run took.
        peak_memory_bytes: largest memory of the process that ran the stage.
        num_workers: `runtime.num_workers`.
        versions: of Python and of the libraries that decide results.
        git_commit: revision of the library's checkout.
        worker_peak_memory_bytes: largest memory of any worker process; None if there was none.
        cpu_hours: processor time of all processes that worked for the stage.
        gpu_hours: time that those of them with tensors on a GPU worked, once for each GPU.
    """

    created_utc: str
    duration_seconds: float
    peak_memory_bytes: int | None
    num_workers: int
    versions: dict[str, str]
    git_commit: str | None = None
    # Manifests of earlier versions lack these.
    worker_peak_memory_bytes: int | None = None
    cpu_hours: float | None = None
    gpu_hours: float | None = None


class Manifest(_Record):
    """The table of contents of an artifact.

    Attributes:
        kind: class name of the artifact.
        format_version: version of the payload's layout, for this kind.
        stage: name of the stage that made it; `stage_version` its version.
        fingerprint: SHA-256 of `recipe`.
        recipe: stage, version, configuration, seed and input contents: what decides the payload.
        content_hash: SHA-256 over the sorted paths and hashes of the payload files.
        summary: headline values, such as the number of rows.
        provenance: times, versions and machine, which differ between two equal runs.
    """

    kind: str
    format_version: int
    stage: str
    stage_version: int
    fingerprint: str
    content_hash: str
    recipe: dict[str, Any]
    inputs: dict[str, InputEntry]
    files: tuple[FileEntry, ...]
    summary: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance


def content_hash(files: Iterable[FileEntry]) -> str:
    """Hash the payload: sorted paths with their hashes."""
    lines = sorted(f"{entry.path}\0{entry.sha256}\n" for entry in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A complete artifact; subclasses are its kinds.

    Attributes:
        uri: directory of the artifact.
        manifest: its table of contents.
    """

    uri: str
    manifest: Manifest

    format_version: ClassVar[int] = 1

    @classmethod
    def kind(cls) -> str:
        """Name of this kind of artifact, as in the manifest."""
        return cls.__name__

    @classmethod
    def open(cls, uri: str | os.PathLike[str], verify: bool = False) -> Self:
        """Open a complete artifact of this kind.

        Args:
            uri: its directory.
            verify: also check every file's size and hash.

        Raises:
            ArtifactError: it is missing, unfinished, of another kind or format, or (with
                `verify`) damaged.
        """
        text = os.fspath(uri)
        manifest = read_manifest(text, expected=cls.kind())
        if manifest.kind != cls.kind():
            raise ArtifactError(
                f"{text}: this is a {manifest.kind} (made by {manifest.stage}), expected a "
                f"{cls.kind()}."
            )
        if manifest.format_version != cls.format_version:
            newer = manifest.format_version > cls.format_version
            fix = (
                "It was made by a newer version of this library: upgrade it."
                if newer
                else f"Run the stage {manifest.stage} again with --fresh to make it anew."
            )
            raise ArtifactError(
                f"{text}: this {cls.kind()} has format version {manifest.format_version}, "
                f"expected {cls.format_version}. {fix}"
            )
        artifact = cls(text, manifest)
        if verify:
            artifact.verify()
        return artifact

    def verify(self, contents: bool = True) -> None:
        """Check that every payload file is there, whole and unchanged.

        Args:
            contents: also read every file and compare its hash, not its size alone.

        Raises:
            ArtifactError: naming the first file that is not.
        """
        sizes = {info.path: info.size for info in storage.list_files(self.uri)}
        for entry in self.manifest.files:
            problem = None
            if entry.path not in sizes:
                problem = "is missing"
            elif sizes[entry.path] != entry.bytes:
                cut = "is truncated" if sizes[entry.path] < entry.bytes else "has grown"
                problem = f"{cut}: found {sizes[entry.path]} bytes, expected {entry.bytes}"
            elif contents and storage.sha256(self.path(entry.path)) != entry.sha256:
                problem = "was changed: its SHA-256 is not the one in the manifest"
            if problem:
                raise ArtifactError(
                    f"{self.uri}: the file {entry.path} of this {self.kind()} {problem}. Restore "
                    f"it, or run the stage {self.manifest.stage} again with --fresh."
                )

    def path(self, *parts: str) -> str:
        """URI of a file or folder of the artifact."""
        return storage.join(self.uri, *parts)

    def files(self, folder: str = "", suffix: str = "") -> list[FileEntry]:
        """Payload files under a folder and with a suffix, in the order of their paths."""
        prefix = f"{folder.strip('/')}/" if folder else ""
        return [
            entry
            for entry in self.manifest.files
            if entry.path.startswith(prefix) and entry.path.endswith(suffix)
        ]

    @contextlib.contextmanager
    def local(self, *parts: str) -> Generator[Path]:
        """Give a local path of a file or folder of the artifact (downloaded if remote)."""
        with storage.local_copy(self.path(*parts)) as path:
            yield path


class Corpus(Artifact):
    """Records as tokens' source: shards for each split, the schema, and the fitted codec."""


class VaeCheckpoint(Artifact):
    """A trained text-VAE with the codec it was trained with."""


class Latents(Artifact):
    """Latent posteriors of the corpus, in shards, with their scaler."""


class GeneratorBundle(Artifact):
    """Everything sampling needs, and no training data: codec, weights, scaler, schema, card."""


class SyntheticData(Artifact):
    """Synthetic records, in shards, with the ledger of rejections."""


class EvaluationReport(Artifact):
    """Scores and plots: report.html, report.json, report.md."""


ARTIFACT_KINDS: dict[str, type[Artifact]] = {
    kind.kind(): kind
    for kind in (Corpus, VaeCheckpoint, Latents, GeneratorBundle, SyntheticData, EvaluationReport)
}


def read_manifest(uri: str, expected: str = "artifact") -> Manifest:
    """Read the manifest of a directory.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    path = storage.join(uri, MANIFEST_NAME)
    if not storage.exists(path):
        article = "an" if expected[0].lower() in "aeiou" else "a"
        if not storage.exists(uri):
            raise ArtifactError(f"{uri}: there is nothing here, expected {article} {expected}.")
        if storage.exists(storage.join(uri, STARTED_NAME)):
            raise ArtifactError(
                f"{uri}: this {expected} is not complete. Run the command that makes it again: "
                "it continues where it stopped."
            )
        raise ArtifactError(
            f"{uri}: expected {article} {expected}, but there is no {MANIFEST_NAME} here."
        )
    try:
        manifest = Manifest.model_validate_json(storage.read_text(path))
    except (ValidationError, UnicodeDecodeError):
        raise ArtifactError(
            f"{path}: this manifest cannot be read; it is damaged, or of another version of this "
            "library. Run the stage that made it again with --fresh."
        ) from None
    if manifest.content_hash != content_hash(manifest.files):
        raise ArtifactError(
            f"{path}: this manifest was changed: its content hash does not fit its list of files. "
            f"Run the stage {manifest.stage} again with --fresh."
        )
    return manifest


class ArtifactWriter:
    """Writes the payload of one artifact inside its final directory.

    Each file appears whole (`file`), so what is there after a crash is good and is kept: a stage
    asks `has` and goes on. Files under `work/` are for resuming only.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def path(self, *parts: str) -> str:
        """URI of a file or folder of the artifact."""
        return storage.join(self.uri, *parts)

    def has(self, path: str) -> bool:
        """Tell whether a file was written before, by this run or the one it continues."""
        return storage.exists(self.path(path))

    @contextlib.contextmanager
    def file(self, path: str) -> Generator[Path]:
        """Give a local path to write the file to; it appears when the block succeeds."""
        with storage.atomic_output(self.path(path)) as local:
            yield local

    @contextlib.contextmanager
    def folder(self, path: str = "") -> Generator[Path]:
        """Give a local folder to write small files to; they appear when the block succeeds."""
        with tempfile.TemporaryDirectory(prefix="difflm-") as name:
            yield Path(name)
            for source in sorted(Path(name).iterdir()):
                with self.file(f"{path}/{source.name}" if path else source.name) as target:
                    shutil.copyfile(source, target)

    @contextlib.contextmanager
    def read(self, path: str) -> Generator[Path]:
        """Give a local path of a file or folder written before."""
        with storage.local_copy(self.path(path)) as local:
            yield local

    def write_json(self, path: str, value: Any) -> None:
        """Write a JSON file, with sorted keys."""
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        storage.write_text(self.path(path), text + "\n")

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        storage.remove(self.path(path))

    def describe_files(self) -> tuple[FileEntry, ...]:
        """List the payload with sizes, hashes and, for Parquet, rows."""
        entries: list[FileEntry] = []
        for info in storage.list_files(self.uri):
            if info.path in _NOT_PAYLOAD or info.path.startswith(f"{WORK_FOLDER}/"):
                continue
            uri = self.path(info.path)
            rows = _parquet_rows(uri) if info.path.endswith(".parquet") else None
            entries.append(
                FileEntry(path=info.path, bytes=info.size, sha256=storage.sha256(uri), rows=rows)
            )
        return tuple(entries)

    def commit(self, manifest: Manifest) -> None:
        """Declare the artifact complete: write the manifest, then clear the leftovers."""
        storage.write_text(self.path(MANIFEST_NAME), manifest.model_dump_json(indent=2) + "\n")
        self.clear_leftovers()

    def has_begun(self) -> bool:
        """Tell whether there is any payload, or anything to resume from."""
        return any(info.path not in _NOT_PAYLOAD for info in storage.list_files(self.uri))

    def clear(self) -> None:
        """Remove the notes about an artifact of which there is nothing yet."""
        for name in (METRICS_NAME, CONFIG_NAME, STARTED_NAME):
            storage.remove(self.path(name))

    def discard_work(self) -> None:
        """Remove what was kept to resume from."""
        storage.remove_tree(self.path(WORK_FOLDER))

    def clear_leftovers(self) -> None:
        """Remove what only an unfinished artifact needs."""
        storage.remove(self.path(STARTED_NAME))
        self.discard_work()
        # Of a worker that was killed, and whose shard another one has done.
        storage.remove_temporary_files(self.uri)


def _parquet_rows(uri: str) -> int:
    import pyarrow.parquet as pq

    with storage.open_file(uri) as file:
        return int(pq.read_metadata(file).num_rows)


def find_artifacts(uri: str) -> Mapping[str, Manifest]:
    """Find the complete artifacts directly under a run directory, by folder name."""
    found: dict[str, Manifest] = {}
    folders = {
        info.path.partition("/")[0]
        for info in storage.list_files(uri)
        if info.path.endswith(f"/{MANIFEST_NAME}") and info.path.count("/") == 1
    }
    for folder in sorted(folders):
        found[folder] = read_manifest(storage.join(uri, folder))
    return found
