"""Commands in processes of their own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(module, *arguments):
    """Run a module."""
    line = [sys.executable, "-m", module, *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def start(module, *arguments):
    """Begin to run a module; what it prints is lost."""
    line = [sys.executable, "-m", module, *arguments]
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(line, cwd=ROOT, stdout=nowhere, stderr=nowhere)
