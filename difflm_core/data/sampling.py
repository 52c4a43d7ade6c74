"""A uniform sample of a stream in fixed memory, the same however the stream is cut in batches."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from difflm_core.data.hashing import U64, hash_indices, seed_key
from difflm_core.errors import DataError


def sample_rows(batches: Iterable[pa.RecordBatch | pa.Table], num_rows: int, seed: int) -> pa.Table:
    """Draw rows uniformly without replacement, in their original order.

    The rows with the smallest seeded hashes of their global index are kept (bottom-k sampling),
    so the sample depends on the seed and the row order alone. At most about twice `num_rows` rows
    and one batch are held.

    Args:
        batches: The stream, all of one schema.
        num_rows: Rows wanted; a shorter stream is returned whole.
        seed: Seed of the draw.

    Raises:
        DataError: the stream has no batch.
    """
    if num_rows < 1:
        raise ValueError(f"num_rows is {num_rows}; expected at least 1")
    key = seed_key(seed, "sample_rows")
    held: list[pa.Table] = []
    hashes: list[U64] = []
    num_held, start = 0, 0
    threshold = np.uint64(0xFFFFFFFFFFFFFFFF)
    schema: pa.Schema | None = None
    for batch in batches:
        schema = batch.schema
        drawn = hash_indices(start, batch.num_rows, key)
        start += batch.num_rows
        chosen = np.flatnonzero(drawn <= threshold)
        if not len(chosen):
            continue
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        held.append(table.take(pa.array(chosen)))
        hashes.append(drawn[chosen])
        num_held += len(chosen)
        if num_held > 2 * num_rows:
            table, kept = _smallest(held, hashes, num_rows)
            held, hashes, num_held = [table], [kept], num_rows
            threshold = kept.max()
    if schema is None:
        raise DataError("the stream has no rows to sample; expected at least one batch")
    if not held:
        return schema.empty_table()
    return _smallest(held, hashes, num_rows)[0]


def _smallest(held: list[pa.Table], hashes: list[U64], num_rows: int) -> tuple[pa.Table, U64]:
    """Rows with the smallest hashes, in stream order."""
    table, drawn = pa.concat_tables(held), np.concatenate(hashes)
    if len(drawn) <= num_rows:
        return table.combine_chunks(), drawn
    chosen = np.sort(np.argpartition(drawn, num_rows - 1)[:num_rows])
    return table.take(pa.array(chosen)).combine_chunks(), drawn[chosen]
