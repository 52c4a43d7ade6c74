import json
import os

import pytest

from difflm_core import storage
from difflm_core.artifacts import (
    ARTIFACT_KINDS,
    ArtifactWriter,
    Corpus,
    FileEntry,
    Latents,
    Manifest,
    Provenance,
    content_hash,
    find_artifacts,
)
from difflm_core.errors import ArtifactError


def make_corpus(uri, files=None, **changes):
    """Commit a corpus with the given text files."""
    writer = ArtifactWriter(uri)
    for path, text in (files or {"train/a.txt": "one", "b.txt": "two"}).items():
        with writer.file(path) as local:
            local.write_text(text)
    entries = writer.describe_files()
    values = {
        "kind": "Corpus",
        "format_version": 1,
        "stage": "serialize",
        "stage_version": 1,
        "fingerprint": "f",
        "content_hash": content_hash(entries),
        "recipe": {"stage": "serialize"},
        "inputs": {},
        "files": entries,
        "provenance": Provenance(
            created_utc="2026-01-01T00:00:00+00:00",
            duration_seconds=1.0,
            peak_memory_bytes=1,
            num_workers=1,
            versions={},
        ),
    }
    writer.commit(Manifest(**{**values, **changes}))
    return uri


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(str(tmp_path / "corpus"))


def message_of(kind, uri, **options):
    with pytest.raises(ArtifactError) as caught:
        kind.open(uri, **options)
    return str(caught.value)


def test_the_six_kinds():
    assert list(ARTIFACT_KINDS) == [
        "Corpus",
        "VaeCheckpoint",
        "Latents",
        "GeneratorBundle",
        "SyntheticData",
        "EvaluationReport",
    ]


def test_a_whole_artifact_is_verified_and_read(corpus):
    artifact = Corpus.open(corpus, verify=True)
    assert [entry.path for entry in artifact.manifest.files] == ["b.txt", "train/a.txt"]
    assert [entry.path for entry in artifact.files("train")] == ["train/a.txt"]
    assert artifact.files(suffix=".parquet") == []
    with artifact.local("train", "a.txt") as path:
        assert path.read_text() == "one"


def test_a_manifest_of_before_hours_were_counted_opens(corpus):
    path = storage.join(corpus, "manifest.json")
    manifest = json.loads(storage.read_text(path))
    for key in ("cpu_hours", "gpu_hours", "worker_peak_memory_bytes"):
        del manifest["provenance"][key]
    storage.write_text(path, json.dumps(manifest))
    assert Corpus.open(corpus, verify=True).manifest.provenance.cpu_hours is None


def test_a_folder_prefix_is_a_whole_name(tmp_path):
    uri = make_corpus(str(tmp_path / "c"), {"train/a": "1", "training/b": "2"})
    assert [entry.path for entry in Corpus.open(uri).files("train")] == ["train/a"]


def test_the_content_hash_covers_paths_and_bytes_in_any_order():
    a = FileEntry(path="a", bytes=1, sha256="1", rows=3)
    b = FileEntry(path="b", bytes=1, sha256="2")
    assert content_hash([a, b]) == content_hash([b, a])
    assert content_hash([a]) == content_hash([a.model_copy(update={"rows": None})])
    assert content_hash([a, b]) != content_hash([a])
    swapped = [a.model_copy(update={"sha256": "2"}), b.model_copy(update={"sha256": "1"})]
    assert content_hash([a, b]) != content_hash(swapped)


def test_logs_and_configuration_are_no_payload(tmp_path):
    writer = ArtifactWriter(str(tmp_path))
    for name in ("config.yaml", "metrics.jsonl", "started.json", ".lock", "work/step", "data.bin"):
        storage.write_text(writer.path(name), "x")
    assert [entry.path for entry in writer.describe_files()] == ["data.bin"]


def test_a_truncated_file(corpus):
    os.truncate(storage.join(corpus, "train", "a.txt"), 1)
    assert message_of(Corpus, corpus, verify=True) == (
        f"{corpus}: the file train/a.txt of this Corpus is truncated: found 1 bytes, expected 3. "
        "Restore it, or run the stage serialize again with --fresh."
    )


def test_a_changed_file_of_equal_size(corpus):
    storage.write_text(storage.join(corpus, "train", "a.txt"), "six")
    assert message_of(Corpus, corpus, verify=True) == (
        f"{corpus}: the file train/a.txt of this Corpus was changed: its SHA-256 is not the one "
        "in the manifest. Restore it, or run the stage serialize again with --fresh."
    )


def test_a_longer_file(corpus):
    storage.append_text(storage.join(corpus, "b.txt"), "!")
    assert message_of(Corpus, corpus, verify=True) == (
        f"{corpus}: the file b.txt of this Corpus has grown: found 4 bytes, expected 3. "
        "Restore it, or run the stage serialize again with --fresh."
    )


def test_a_missing_file(corpus):
    storage.remove(storage.join(corpus, "b.txt"))
    assert message_of(Corpus, corpus, verify=True) == (
        f"{corpus}: the file b.txt of this Corpus is missing. "
        "Restore it, or run the stage serialize again with --fresh."
    )


def test_nothing_there(tmp_path):
    uri = str(tmp_path / "none")
    assert message_of(Corpus, uri) == f"{uri}: there is nothing here, expected a Corpus."


def test_an_unfinished_artifact(tmp_path):
    storage.write_text(str(tmp_path / "started.json"), "{}")
    assert message_of(Corpus, str(tmp_path)) == (
        f"{tmp_path}: this Corpus is not complete. Run the command that makes it again: it "
        "continues where it stopped."
    )


def test_a_folder_of_other_things(tmp_path):
    storage.write_text(str(tmp_path / "x.txt"), "x")
    assert message_of(Corpus, str(tmp_path)) == (
        f"{tmp_path}: expected a Corpus, but there is no manifest.json here."
    )


def test_another_kind(corpus):
    assert message_of(Latents, corpus) == (
        f"{corpus}: this is a Corpus (made by serialize), expected a Latents."
    )


@pytest.mark.parametrize(
    ("version", "fix"),
    [
        (99, "It was made by a newer version of this library: upgrade it."),
        (0, "Run the stage serialize again with --fresh to make it anew."),
    ],
)
def test_another_format_version(tmp_path, version, fix):
    uri = make_corpus(str(tmp_path), format_version=version)
    assert message_of(Corpus, uri) == (
        f"{uri}: this Corpus has format version {version}, expected 1. {fix}"
    )


def test_a_manifest_that_is_no_json(corpus):
    path = storage.join(corpus, "manifest.json")
    storage.write_text(path, "{")
    assert message_of(Corpus, corpus) == (
        f"{path}: this manifest cannot be read; it is damaged, or of another version of this "
        "library. Run the stage that made it again with --fresh."
    )


def test_a_manifest_whose_files_were_edited(corpus):
    path = storage.join(corpus, "manifest.json")
    values = json.loads(storage.read_text(path))
    values["files"].pop()
    storage.write_text(path, json.dumps(values))
    assert message_of(Corpus, corpus) == (
        f"{path}: this manifest was changed: its content hash does not fit its list of files. "
        "Run the stage serialize again with --fresh."
    )


def test_json_files_are_written_alike_whatever_the_order(tmp_path):
    writer = ArtifactWriter(str(tmp_path))
    writer.write_json("a.json", {"b": 1, "a": "é"})
    assert storage.read_text(writer.path("a.json")) == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.write_json("b.json", {"a": float("nan")})


def test_the_artifacts_of_a_run_are_found(tmp_path):
    make_corpus(str(tmp_path / "run" / "corpus"))
    storage.write_text(str(tmp_path / "run" / "vae" / "started.json"), "{}")
    assert list(find_artifacts(str(tmp_path / "run"))) == ["corpus"]
