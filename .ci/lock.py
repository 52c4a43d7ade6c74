"""Write requirements.lock from pip's resolution of all extras: `make lock` runs it."""

import json
import sys
from pathlib import Path

HEADER = """\
# Exact versions for `pip install -c requirements.lock`, every transitive dependency of the extras
# eval, train, pretrained, ray, tracking, kfp, serve, s3, gcs and dev included. Written by `make
# lock`: what is installed in .venv, where the tests pass, keeps its version; the rest is what pip
# resolves beside it. No index, no path, no hash, so that pip's own configuration decides where
# packages come from.
"""
# Build tools, and the project itself.
LEFT_OUT = {"difflm-on-ray", "pip", "setuptools", "wheel"}


def main(report: str, lock: str) -> None:
    """Write the lock file of a `pip install --report` file."""
    resolved = json.loads(Path(report).read_text(encoding="utf-8"))["install"]
    versions = {item["metadata"]["name"]: item["metadata"]["version"] for item in resolved}
    lines = [
        # A local version (torch's +cpu) is one index's build of the same release.
        f"{name}=={version.partition('+')[0]}\n"
        for name, version in sorted(versions.items(), key=lambda item: item[0].lower())
        if name.lower() not in LEFT_OUT
    ]
    Path(lock).write_text(HEADER + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
