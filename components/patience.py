"""Waiting out an API that does not answer for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from difflm_core.errors import StageError

_LOGGER = logging.getLogger("difflm.submit")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Patience:
    """Repeats calls to one API while it is out.

    A job elsewhere goes on while nobody watches it, so an outage of minutes must not end its step.

    Attributes:
        what: the API, for messages.
        is_outage: tells an error that may pass from one that will not.
        longest_seconds: longest outage.
        first_wait_seconds: wait after the first failure; it doubles with each, up to 30 s.
    """

    what: str
    is_outage: Callable[[Exception], bool]
    longest_seconds: float = 600.0
    first_wait_seconds: float = 1.0

    def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Call a function until it gives a result, or an error that will not pass.

        Raises:
            StageError: the outage has lasted too long.
        """
        start, wait = time.monotonic(), self.first_wait_seconds
        while True:
            try:
                return function()
            except Exception as error:
                if not self.is_outage(error):
                    raise
                if time.monotonic() - start + wait > self.longest_seconds:
                    raise StageError(
                        f"{self.what} has not answered for {time.monotonic() - start:.0f} s: "
                        f"{_first_line(error)}. Run the same step again when it does: it finds "
                        "its job, or continues from what is finished."
                    ) from None
                _LOGGER.warning(
                    "%s does not answer (%s); trying again in %.0f s",
                    self.what,
                    _first_line(error),
                    wait,
                )
            time.sleep(wait)
            wait = min(2 * wait, 30.0)


def _first_line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]
