"""The one place that opens URIs: local paths, `file://`, `s3://`, `gs://` and what fsspec knows.

Local files go through `pathlib`; fsspec is loaded only for a remote URI. Whole files appear at
once: `atomic_output` writes to a temporary local file, then renames it (local) or uploads it
(object stores show an object only when it is complete). A URI is a plain string.
"""

from __future__ import annotations

import contextlib
import errno
import glob as globbing
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from difflm_core.errors import ConfigError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# A name with this suffix is a file still being written; readers and listings skip it.
TEMPORARY_SUFFIX = ".tmp"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileInfo:
    """A file under a directory: its path relative to it (with `/`), and its size in bytes."""

    path: str
    size: int


def is_local(uri: str | os.PathLike[str]) -> bool:
    """Tell whether the URI is a path on this machine."""
    text = os.fspath(uri)
    return "://" not in text or text.startswith("file://")


def local_path(uri: str | os.PathLike[str]) -> Path:
    """Return the path of a local URI.

    Raises:
        ConfigError: the URI is remote.
    """
    text = os.fspath(uri)
    if not is_local(text):
        raise ConfigError(f"{text}: expected a path on this machine, found a remote URI.")
    return Path(text.removeprefix("file://")).expanduser()


def join(uri: str | os.PathLike[str], *parts: str) -> str:
    """Append path parts to a URI."""
    text = os.fspath(uri)
    if is_local(text):
        return str(local_path(text).joinpath(*parts))
    return "/".join([text.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str | os.PathLike[str]) -> bool:
    """Tell whether a file or a directory is there."""
    if is_local(uri):
        return local_path(uri).exists()
    filesystem, path = _remote(uri)
    return bool(filesystem.exists(path))


def is_dir(uri: str | os.PathLike[str]) -> bool:
    """Tell whether the URI is a directory (or, in an object store, a prefix)."""
    if is_local(uri):
        return local_path(uri).is_dir()
    filesystem, path = _remote(uri)
    return bool(filesystem.isdir(path))


def size(uri: str | os.PathLike[str]) -> int:
    """Size of a file, in bytes."""
    if is_local(uri):
        return local_path(uri).stat().st_size
    filesystem, path = _remote(uri)
    return int(filesystem.size(path) or 0)


def make_dir(uri: str | os.PathLike[str]) -> None:
    """Create a directory and its parents; nothing happens if it is there.

    Raises:
        ConfigError: it cannot be made there.
    """
    if is_local(uri):
        try:
            local_path(uri).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if is_full_disk(error):
                raise
            raise ConfigError(
                f"{os.fspath(uri)}: this folder cannot be made ({error.strerror}). Choose another "
                "one, or check what is there and who may write."
            ) from None
        return
    filesystem, path = _remote(uri)
    filesystem.makedirs(path, exist_ok=True)


def open_file(uri: str | os.PathLike[str], mode: str = "rb") -> IO[Any]:
    """Open a file; use `atomic_output` to write one that others may read."""
    encoding = None if "b" in mode else "utf-8"
    if is_local(uri):
        return local_path(uri).open(mode, encoding=encoding)
    filesystem, path = _remote(uri)
    return cast("IO[Any]", filesystem.open(path, mode, encoding=encoding))


def read_text(uri: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file."""
    with open_file(uri, "rb") as file:
        return cast("bytes", file.read()).decode("utf-8")


def write_text(uri: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file, at once and durably."""
    with atomic_output(uri) as path, path.open("wb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def append_text(uri: str | os.PathLike[str], text: str) -> None:
    """Append UTF-8 text to a file; an object store rewrites the object."""
    if is_local(uri):
        with local_path(uri).open("a", encoding="utf-8") as file:
            file.write(text)
        return
    write_text(uri, (read_text(uri) if exists(uri) else "") + text)


@contextlib.contextmanager
def atomic_output(uri: str | os.PathLike[str]) -> Generator[Path]:
    """Give a local path to write one file to; the file appears at `uri` when the block succeeds.

    If the block raises, nothing appears and the temporary file is removed. If the process is
    killed, a file with `TEMPORARY_SUFFIX` may stay, which listings skip.
    """
    text = os.fspath(uri)
    if is_local(text):
        target = local_path(text)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="difflm-") as folder:
        # The suffix is kept: libraries choose a format by it.
        temporary = Path(folder) / text.rstrip("/").rpartition("/")[2]
        yield temporary
        filesystem, path = _remote(text)
        filesystem.put_file(str(temporary), path)


@contextlib.contextmanager
def local_copy(uri: str | os.PathLike[str]) -> Generator[Path]:
    """Give a local path of a file or directory, for libraries that read only local files.

    A local URI is given as it is (do not write to it); a remote one is downloaded and the copy
    is removed after the block.
    """
    if is_local(uri):
        yield local_path(uri)
        return
    filesystem, path = _remote(uri)
    with tempfile.TemporaryDirectory(prefix="difflm-") as folder:
        target = Path(folder) / path.rstrip("/").rpartition("/")[2]
        filesystem.get(path, str(target), recursive=bool(filesystem.isdir(path)))
        yield target


def list_files(uri: str | os.PathLike[str]) -> list[FileInfo]:
    """List the files under a directory, recursively and sorted, without temporary ones.

    A directory that is not there has no files.
    """
    found: list[FileInfo] = []
    if is_local(uri):
        root = local_path(uri)
        for path in root.rglob("*"):
            if path.is_file() and not path.name.endswith(TEMPORARY_SUFFIX):
                found.append(FileInfo(path.relative_to(root).as_posix(), path.stat().st_size))
    else:
        filesystem, root_path = _remote(uri)
        root_path = root_path.rstrip("/")
        there = filesystem.exists(root_path)
        listing: Any = filesystem.find(root_path, detail=True) if there else {}
        entries = cast("dict[str, dict[str, Any]]", listing)
        for path, info in entries.items():
            if not path.endswith(TEMPORARY_SUFFIX):
                found.append(FileInfo(path[len(root_path) :].lstrip("/"), int(info["size"])))
    return sorted(found, key=lambda info: info.path)


def glob(pattern: str | os.PathLike[str]) -> list[str]:
    """List the files that match a path or URI with `*`, `?`, `[...]` or `**`, sorted."""
    if is_local(pattern):
        found = globbing.glob(str(local_path(pattern)), recursive=True)  # noqa: PTH207 - absolute patterns
        return sorted(path for path in found if Path(path).is_file())
    filesystem, path = _remote(pattern)
    return sorted(str(filesystem.unstrip_protocol(str(name))) for name in filesystem.glob(path))


def remove(uri: str | os.PathLike[str]) -> None:
    """Remove one file; nothing happens if it is not there."""
    if is_local(uri):
        local_path(uri).unlink(missing_ok=True)
        return
    filesystem, path = _remote(uri)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def remove_tree(uri: str | os.PathLike[str]) -> None:
    """Remove a directory and all that is in it; nothing happens if it is not there."""
    if is_local(uri):
        if local_path(uri).exists():
            shutil.rmtree(local_path(uri))
        return
    filesystem, path = _remote(uri)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm(path, recursive=True)


def remove_temporary_files(uri: str | os.PathLike[str]) -> None:
    """Remove what a killed process left half-written under a local directory."""
    if is_local(uri):
        for path in local_path(uri).rglob(f"*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


class LockedError(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def lock(uri: str | os.PathLike[str]) -> Generator[None]:
    """Hold a lock file on this machine's disk; the end of the process releases it.

    A remote URI, or a file system without locks, is not locked.

    Raises:
        LockedError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        fcntl = None
    if fcntl is None or not is_local(uri):
        yield
        return
    path = local_path(uri)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(str(path)) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_full_disk(error: BaseException) -> bool:
    """Tell whether an error means that no space is left."""
    # Rust and C++ writers wrap the system's error in their own types and keep only its text.
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or os.strerror(errno.ENOSPC) in str(error)


def sha256(uri: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open_file(uri, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _remote(uri: str | os.PathLike[str]) -> tuple[AbstractFileSystem, str]:
    """Return the fsspec filesystem of a URI, and the path inside it."""
    import fsspec

    text = os.fspath(uri)
    scheme = text.partition("://")[0]
    try:
        filesystem, path = fsspec.core.url_to_fs(text)
    except ImportError as error:
        extras = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
        extra = extras.get(scheme)
        fix = f"Install it: pip install 'difflm-on-ray[{extra}]'." if extra else f"{error}."
        raise ConfigError(f"{text}: the package that reads {scheme}:// is missing. {fix}") from None
    except ValueError:
        raise ConfigError(
            f"{text}: the scheme {scheme}:// is not known. "
            "Expected a path, file://, s3:// or gs://."
        ) from None
    return cast("AbstractFileSystem", filesystem), str(path)
