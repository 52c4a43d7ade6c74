"""Where a result comes from: library versions, source revision, memory of this process."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

_LIBRARIES = (
    "difflm-on-ray",
    "numpy",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
_SELF_STATUS = Path("/proc/self/status")


@cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide results."""
    versions = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git_commit() -> str | None:
    """Revision of the checkout this library runs from; None if it is installed."""
    git_dir = Path(__file__).resolve().parents[1] / ".git"
    try:
        if git_dir.is_file():  # a worktree: a file that names the directory
            git_dir = Path(git_dir.read_text("utf-8").removeprefix("gitdir: ").strip())
        head = (git_dir / "HEAD").read_text("utf-8").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        common = git_dir / "commondir"
        root = git_dir / common.read_text("utf-8").strip() if common.exists() else git_dir
        if (root / name).exists():
            return (root / name).read_text("utf-8").strip()
        packed = (root / "packed-refs").read_text("utf-8")
    except OSError:
        return None
    match = re.search(rf"^([0-9a-f]+) {re.escape(name)}$", packed, re.MULTILINE)
    return match[1] if match else None


def reset_peak_memory() -> None:
    """Start measuring `peak_memory_bytes` anew (Linux; elsewhere it is the whole process's)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process, in bytes; None if the system does not tell."""
    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB$", _SELF_STATUS.read_text(), re.MULTILINE)
    except OSError:
        match = None
    if match:
        return int(match[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
