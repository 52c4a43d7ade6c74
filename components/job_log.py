"""The log of a job elsewhere, as it comes; and what it says last if the job fails."""

from __future__ import annotations

import sys
from collections import deque
from typing import TextIO

_TITLE = "Error: "


class JobLog:
    """Prints a log that may be read again from its beginning after a broken connection."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._num_shown = 0
        self._num_read = 0
        self._rest = ""
        self._lines: deque[str] = deque(maxlen=200)

    def restart(self) -> None:
        """Say that the next text is the beginning of the log once more."""
        self._num_read = 0

    def write(self, text: str) -> None:
        """Take the next piece of the log; print what was not printed before."""
        start = self._num_read
        self._num_read += len(text)
        new = text[max(0, self._num_shown - start) :]
        if not new:
            return
        self._num_shown = self._num_read
        self._stream.write(new)
        self._stream.flush()
        *lines, self._rest = (self._rest + new).split("\n")
        self._lines.extend(lines)

    def last_error(self) -> str | None:
        """The message with which the job's own process has ended; None if it gave none."""
        lines = [*self._lines, self._rest]
        starts = [number for number, line in enumerate(lines) if line.startswith(_TITLE)]
        if not starts:
            return None
        first, *others = lines[starts[-1] :]
        message = [first.removeprefix(_TITLE)]
        for line in others:
            # Only a list of details belongs to the message; what follows is another's.
            if not line.startswith("  "):
                break
            message.append(line)
        return "\n".join(message).strip()
