"""What the workers of a training group tell each other: sums, and who does which rows.

The group is that of `torch.distributed`, which a launcher has set up; a worker alone needs none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from difflm_core.errors import ConfigError
from difflm_core.parallel import Worker


def sum_in_place(tensors: Sequence[Tensor], worker: Worker) -> None:
    """Replace each tensor by its sum over the workers; one message for all of them."""
    if worker.world_size == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def require_shares(num_rows: int, worker: Worker, num_parts: int = 1) -> None:
    """Check, before any work, that a batch has rows for every part of every worker.

    Raises:
        ConfigError: it has not.
    """
    if num_rows < worker.world_size * num_parts:
        raise ConfigError(
            f"A batch of {num_rows} rows cannot be shared by {worker.world_size} workers in "
            f"{num_parts} parts each. Use fewer (runtime.num_workers, "
            "runtime.accumulation_steps), or larger batches (batch_rows)."
        )


def share_of(num_rows: int, worker: Worker) -> slice:
    """Rows that a worker does: an even and contiguous share of a batch."""
    bounds = [num_rows * rank // worker.world_size for rank in (worker.rank, worker.rank + 1)]
    return slice(*bounds)
