"""What work uses: processor time, GPU time and memory, over all processes that do it.

Every process that works reads its own `Meter`. A worker's readings travel back with its results;
the launcher adds them up, and whoever runs the stage takes the sum (`Launcher.take_usage`).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from difflm_core import provenance


@dataclass(frozen=True)
class Usage:
    """What one process or several have used.

    Attributes:
        cpu_seconds: Processor time of all threads.
        gpu_seconds: Time that processes with tensors on a GPU worked, once for each such GPU.
        peak_memory_bytes: Largest resident memory of any one process; None if no system told.
    """

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_memory_bytes: int | None = None

    def __add__(self, other: Usage) -> Usage:
        """Used by both: times add up, of the peaks the larger one counts."""
        peaks = [p for p in (self.peak_memory_bytes, other.peak_memory_bytes) if p is not None]
        return Usage(
            self.cpu_seconds + other.cpu_seconds,
            self.gpu_seconds + other.gpu_seconds,
            max(peaks, default=None),
        )

    @property
    def cpu_hours(self) -> float:
        """Processor time in hours, to a fraction of a second."""
        return round(self.cpu_seconds / 3600, 6)

    @property
    def gpu_hours(self) -> float:
        """GPU time in hours, to a fraction of a second."""
        return round(self.gpu_seconds / 3600, 6)


NOTHING = Usage()


class Meter:
    """Reads what this process uses, portion by portion."""

    def __init__(self, whole_process: bool = False) -> None:
        """Begin the first portion.

        Args:
            whole_process: The process exists for this work alone, so the processor time of its
                start and its imports counts as well.
        """
        self._begin()
        if whole_process:
            self._cpu_seconds = 0.0

    def take(self) -> Usage:
        """What was used in this portion; the next one begins."""
        used = Usage(
            time.process_time() - self._cpu_seconds,
            (time.monotonic() - self._start) * len(_gpus_with_tensors()),
            provenance.peak_memory_bytes(),
        )
        self._begin()
        return used

    def _begin(self) -> None:
        self._cpu_seconds = time.process_time()
        self._start = time.monotonic()
        provenance.reset_peak_memory()
        for device in _gpus_with_tensors():
            sys.modules["torch"].cuda.reset_peak_memory_stats(device)


def _gpus_with_tensors() -> list[int]:
    """Numbers of the CUDA devices on which this process had tensors in this portion."""
    # A process that has not imported torch need not do so to learn that it uses no GPU.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    devices = range(torch.cuda.device_count())
    return [device for device in devices if torch.cuda.max_memory_allocated(device)]
