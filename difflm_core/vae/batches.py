"""Training and validation batches of token ids, drawn from a corpus shard by shard.

Memory holds one shard. Repeated values are spread over their rank anew in every epoch, and a
batch is a function of the seed and the step alone, so a run can continue anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from difflm_core.codec.base import Codec
from difflm_core.errors import DataError
from difflm_core.seeds import numpy_generator

if TYPE_CHECKING:
    from difflm_core.vae.model import Rows


@dataclass(frozen=True)
class RecordShard:
    """A shard of canonical records.

    Attributes:
        num_rows: Records in it.
        read: Reads them.
    """

    num_rows: int
    read: Callable[[], pa.Table]


class Batches(Protocol):
    """Training batches, each a function of the seed and of its step alone.

    Attributes:
        batch_rows: Records in a batch.
        num_rows: Records in all.
        smallest: Records of the smallest batch.
        mean_rows: Records of a batch, on average.
        tokens_per_row: Tokens of a record, on average.
    """

    batch_rows: int
    num_rows: int
    smallest: int
    mean_rows: float
    tokens_per_row: float

    def batch(self, step: int) -> Rows:
        """The records of training step `step`."""
        ...


class TrainingBatches:
    """Batches of shuffled token ids of a table's records, by step."""

    def __init__(
        self, shards: Sequence[RecordShard], codec: Codec, *, batch_rows: int, seed: int
    ) -> None:
        """Plan the batches.

        Args:
            shards: Shards of training records, each a random part of the table.
            codec: Encodes them.
            batch_rows: Records in a batch; a shard smaller than that is one batch.
            seed: Seed of order and ranks.

        Raises:
            DataError: there are no records.
        """
        self.shards = [shard for shard in shards if shard.num_rows]
        if not self.shards:
            raise DataError("The training split has no records; lower valid_fraction, or add rows.")
        self.codec = codec
        self.batch_rows = batch_rows
        self.seed = seed
        self.num_rows = sum(shard.num_rows for shard in self.shards)
        self._batches = [max(1, shard.num_rows // batch_rows) for shard in self.shards]
        self.steps_per_epoch = sum(self._batches)
        self.smallest = min(batch_rows, *(shard.num_rows for shard in self.shards))
        # What is left of a shard after its last whole batch is not read in this epoch.
        left = [s.num_rows % batch_rows if s.num_rows > batch_rows else 0 for s in self.shards]
        self.mean_rows = (self.num_rows - sum(left)) / self.steps_per_epoch
        self.tokens_per_row = float(len(codec.grammar))
        self._loaded: tuple[int, int] | None = None
        self._ids_NT = torch.empty(0)

    def batch(self, step: int) -> Tensor:
        """Token ids of training step `step`, shape [B, T], int64."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = numpy_generator(self.seed, "shards", epoch).permutation(len(self.shards))
        for shard in order.tolist():
            if position < self._batches[shard]:
                self._load(epoch, shard)
                begin = position * self.batch_rows
                return self._ids_NT[begin : begin + self.batch_rows].long()
            position -= self._batches[shard]
        raise AssertionError("a step lies in one of the shards")

    def _load(self, epoch: int, shard: int) -> None:
        if self._loaded == (epoch, shard):
            return
        generator = numpy_generator(self.seed, "rows", epoch, shard)
        ids_NT = self.codec.encode(self.shards[shard].read(), generator).ids
        self._ids_NT = torch.from_numpy(ids_NT[generator.permutation(len(ids_NT))])
        self._loaded = (epoch, shard)


def fixed_ids(
    shards: Sequence[RecordShard], codec: Codec, *, max_rows: int, seed: int, purpose: str
) -> Tensor:
    """Token ids of the first `max_rows` records, the same in every call; shape [N, T], int64."""
    parts: list[np.ndarray] = []
    left = max_rows
    for index, shard in enumerate(shards):
        if left <= 0:
            break
        records = shard.read().slice(0, left)
        parts.append(codec.encode(records, numpy_generator(seed, purpose, index)).ids)
        left -= records.num_rows
    if not parts:
        return torch.empty((0, len(codec.grammar)), dtype=torch.int64)
    return torch.from_numpy(np.concatenate(parts)).long()
