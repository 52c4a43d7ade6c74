"""Curves of a run for TensorBoard: an option, `runtime.tensorboard`.

    <folder>/<stage>/events.out.tfevents...    one run of TensorBoard for each stage

Of a stage that continues, the curves go on where it continues; those of a stage that is done anew
are replaced, too. Beside the artifacts, never in one: no content hash covers them.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Generator, Mapping
from typing import Any

from difflm_core import storage
from difflm_core.config_file import flatten
from difflm_core.errors import ConfigError
from difflm_core.progress import Report, Sink

_FLUSH_SECONDS = 10


def require_tensorboard(folder: str | None, *output_uris: str) -> None:
    """Check, before any work, that curves can be written; nothing to check without a folder.

    Args:
        folder: `runtime.tensorboard`.
        *output_uris: Folders of artifacts, in which they must not be.

    Raises:
        ConfigError: TensorBoard is not installed, or the folder is inside an artifact.
    """
    if folder is None:
        return
    spec = importlib.util.find_spec("tensorboard")
    # A mere folder of that name in the search path counts as a package without an origin.
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"runtime.tensorboard = {folder!r}: TensorBoard is not installed here, so nothing can "
            "be written for it. Install it: pip install 'difflm-on-ray[tracking]'; or leave the "
            "setting out."
        )
    for uri in output_uris:
        if _is_inside(folder, uri):
            raise ConfigError(
                f"runtime.tensorboard = {folder!r}: this folder is inside the artifact {uri}, "
                "which holds nothing but its own files. Choose one beside it."
            )


@contextlib.contextmanager
def tensorboard_sinks(folder: str | None, stage: str) -> Generator[list[Sink]]:
    """Give the sinks that write the curves of a stage: one, or none without a folder.

    Raises:
        ConfigError: the folder cannot be made.
    """
    if folder is None:
        yield []
        return
    uri = storage.join(folder, stage)
    storage.make_dir(uri)
    with contextlib.closing(TensorBoard(uri)) as sink:
        yield [sink]


class TensorBoard:
    """A sink that writes every number as a scalar, over the units that are done."""

    interval_seconds = 1.0

    def __init__(self, uri: str) -> None:
        """Write to a folder; what it holds from `initial` of the first task on is superseded."""
        self._uri = uri
        self._writer: Any = None
        self._task = ""

    def start(self, report: Report) -> None:
        """Begin; a task that begins again has lost a worker, and repeats some of its units."""
        if report.description == self._task:
            self.close()
        self._task = report.description
        if self._writer is None:
            self._open(report.initial)

    def update(self, report: Report) -> None:
        """Write the state of a task."""
        rates = {f"{report.unit}_per_second": report.rate, **report.rates}
        self._write({**report.metrics, **rates}, report.done)

    def finish(self, report: Report) -> None:
        """Write the last state of a task."""
        self.update(report)
        self._writer.flush()

    def event(self, name: str, values: dict[str, Any]) -> None:
        """Write the numbers of an event, under its name; over its `step` if it has one."""
        step = values.get("step", 0)
        numbers = {
            f"{name}/{key.replace('.', '/')}": value
            for key, value in flatten(values).items()
            if key != "step" and isinstance(value, int | float)
        }
        if numbers:
            self._write(numbers, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, numbers: Mapping[str, float], step: int) -> None:
        writer = self._writer or self._open(0)
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    def _open(self, step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard drops what earlier files of the folder have from this step on.
        self._writer = SummaryWriter(self._uri, purge_step=step, flush_secs=_FLUSH_SECONDS)
        return self._writer


def _is_inside(uri: str, folder: str) -> bool:
    if storage.is_local(uri) and storage.is_local(folder):
        inner, outer = (storage.local_path(each).resolve() for each in (uri, folder))
        return inner.is_relative_to(outer)
    return f"{uri.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")
