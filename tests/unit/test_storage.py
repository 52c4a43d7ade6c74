import hashlib
from pathlib import Path

import fsspec
import pytest

from difflm_core import storage
from difflm_core.errors import ConfigError


@pytest.fixture(params=["local", "file", "memory"])
def root(request, tmp_path):
    """A fresh directory: a path, a file:// URI, and a remote (in-memory) store."""
    if request.param == "local":
        yield str(tmp_path / "root")
    elif request.param == "file":
        yield f"file://{tmp_path}/root"
    else:
        yield f"memory://{tmp_path.name}/root"
        fsspec.filesystem("memory").store.clear()


def test_join():
    assert storage.join("a/b", "c", "d.txt") == "a/b/c/d.txt"
    assert storage.join("s3://bucket/run/", "/c/", "d.txt") == "s3://bucket/run/c/d.txt"
    assert storage.join("file:///a", "b") == "/a/b"


def test_write_read_append(root):
    uri = storage.join(root, "deep", "er", "a.txt")
    assert not storage.exists(uri)
    storage.write_text(uri, "é\n")
    storage.append_text(uri, "b\n")
    storage.append_text(storage.join(root, "deep", "new.txt"), "first")
    assert storage.read_text(uri) == "é\nb\n"
    assert storage.exists(uri)
    assert storage.is_dir(storage.join(root, "deep"))
    assert not storage.is_dir(uri)


def test_listing_is_recursive_sorted_and_without_temporary_files(root):
    for name in ("b.txt", "a/z.txt", "a/y.bin.tmp"):
        storage.write_text(storage.join(root, name), name)
    assert storage.list_files(root) == [
        storage.FileInfo("a/z.txt", 7),
        storage.FileInfo("b.txt", 5),
    ]


def test_a_missing_directory_has_no_files(root):
    assert storage.list_files(root) == []


def test_remove(root):
    uri = storage.join(root, "a.txt")
    storage.write_text(uri, "x")
    storage.remove(uri)
    storage.remove(uri)
    assert not storage.exists(uri)


def test_remove_tree(root):
    storage.write_text(storage.join(root, "a", "b.txt"), "x")
    storage.remove_tree(root)
    storage.remove_tree(root)
    assert not storage.exists(storage.join(root, "a", "b.txt"))


def test_an_output_that_fails_leaves_nothing(root):
    uri = storage.join(root, "a.txt")
    storage.write_text(uri, "old")

    def fail():
        with storage.atomic_output(uri) as path:
            path.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert storage.read_text(uri) == "old"
    assert [info.path for info in storage.list_files(root)] == ["a.txt"]
    if storage.is_local(root):
        assert [path.name for path in storage.local_path(root).iterdir()] == ["a.txt"]


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".x.parquet.1234.tmp").write_text("half")
    (tmp_path / "x.parquet").write_text("whole")
    storage.remove_temporary_files(str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x.parquet"]


def test_local_copy_of_a_file_and_a_directory(root):
    storage.write_text(storage.join(root, "d", "a.txt"), "x")
    with storage.local_copy(storage.join(root, "d", "a.txt")) as path:
        assert path.read_text() == "x"
        assert path.name == "a.txt"
    with storage.local_copy(storage.join(root, "d")) as path:
        assert (path / "a.txt").read_text() == "x"


def test_a_remote_copy_is_removed_after_use():
    storage.write_text("memory://copies/a.txt", "x")
    with storage.local_copy("memory://copies/a.txt") as path:
        assert path.exists()
    assert not path.exists()


def test_sha256(root):
    uri = storage.join(root, "a.txt")
    storage.write_text(uri, "x" * 3_000_000)
    assert storage.sha256(uri) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_glob(root):
    for name in ("b.csv", "a.csv", "c.txt", "sub/d.csv"):
        storage.write_text(storage.join(root, name), "x")
    found = storage.glob(storage.join(root, "*.csv"))
    assert [uri.rpartition("/")[2] for uri in found] == ["a.csv", "b.csv"]
    assert [storage.read_text(uri) for uri in found] == ["x", "x"]


def test_home_is_expanded():
    assert storage.local_path("~/x") == Path.home() / "x"


def test_a_remote_uri_is_not_a_local_path():
    with pytest.raises(ConfigError) as caught:
        storage.local_path("s3://bucket/x")
    assert str(caught.value) == (
        "s3://bucket/x: expected a path on this machine, found a remote URI."
    )


def test_an_unknown_scheme():
    with pytest.raises(ConfigError) as caught:
        storage.exists("nope://x")
    assert str(caught.value) == (
        "nope://x: the scheme nope:// is not known. Expected a path, file://, s3:// or gs://."
    )


def test_a_missing_package_names_the_extra(monkeypatch):
    def no_package(uri):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", no_package)
    with pytest.raises(ConfigError) as caught:
        storage.exists("s3://bucket/x")
    assert str(caught.value) == (
        "s3://bucket/x: the package that reads s3:// is missing. "
        "Install it: pip install 'difflm-on-ray[s3]'."
    )
