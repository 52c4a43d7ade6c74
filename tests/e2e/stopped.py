"""Runs the command line, and ends it by a signal at a chosen file: a moment inside a stage.

    python -m tests.e2e.stopped SIGNAL WHEN FILE ARGUMENT...

WHEN is "before" or "after" the file appears under its name; the arguments are those of `difflm`.
"""

import contextlib
import os
import signal
import sys

from difflm_core import storage
from difflm_core.cli import main


def stop_at(number, when, file):
    """Let the process send itself a signal when it writes a file."""
    original = storage.atomic_output

    @contextlib.contextmanager
    def atomic_output(uri):
        with original(uri) as path:
            yield path
            if when == "before" and str(uri).endswith(file):
                os.kill(os.getpid(), number)
        if when == "after" and str(uri).endswith(file):
            os.kill(os.getpid(), number)

    storage.atomic_output = atomic_output


if __name__ == "__main__":
    # A shell that runs the tests in the background has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, when, file, *arguments = sys.argv[1:]
    stop_at(signal.Signals[name], when, file)
    main(arguments)
