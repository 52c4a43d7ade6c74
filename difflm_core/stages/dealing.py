"""The second pass of serialization: records dealt out to shards at random.

A shard must be a fair sample of the table, whatever the order of its rows. So each piece of the
table deals its rows to the shards of its group, in a file of its own, and each shard then gathers
what all pieces of the group hold for it. A group is a random handful of pieces: with one for the
whole table, every piece would deal to every shard, whose number grows with the table, too. Which
shard a row goes to depends on the seed and its index alone, so any number of workers writes the
same files.

work/dealt-rows-00000.arrow     one piece: for each chunk of it, a batch for each shard of the
                                group, rows of the codec's sample, and values it must not miss
train|valid|test/part-00000.parquet
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module
import pyarrow.ipc as ipc_module
import pyarrow.parquet as pq

from difflm_core import storage
from difflm_core.artifacts import WORK_FOLDER
from difflm_core.data.hashing import hash_indices, seed_key
from difflm_core.data.schema import NUMERIC_KINDS, TEMPORAL_KINDS, ColumnKind, Schema
from difflm_core.data.splits import SPLIT_NAMES, SplitPlan
from difflm_core.parallel import OnRows, Shard, ShardWorker
from difflm_core.seeds import numpy_generator
from difflm_core.stages.corpus import part_name
from difflm_core.stages.profiling import Piece, launcher_for

if TYPE_CHECKING:
    from difflm_core.stage import StageContext

pc: Any = pc_module
ipc: Any = ipc_module

# Pieces whose rows are mixed. Each has some 300,000 rows, and a shard reads all of its group.
GROUP_PIECES = 16
# Cells of a table that a worker holds while it deals.
CHUNK_CELLS = 1 << 22
# Rows of a row group in a shard.
ROW_GROUP_ROWS = 16_384
_READERS = 8


@dataclass(frozen=True)
class Group:
    """Pieces of a table that are mixed, and the shards that they become.

    Attributes:
        pieces: Indices of the pieces, ascending.
        shards: Names of its shards by split; each of the pieces deals to all of them.
    """

    pieces: tuple[int, ...]
    shards: Mapping[str, tuple[str, ...]]

    @property
    def width(self) -> int:
        """Number of shards."""
        return sum(len(names) for names in self.shards.values())


@dataclass(frozen=True)
class Dealing:
    """How a table is dealt out.

    Attributes:
        name: Of the table, for its files.
        schema: Of the records.
        pieces: Parts of the table.
        groups: Of pieces.
        plan: Split of each row.
        seed: Of the run.
        num_sampled: Training rows to sample for the codec; 0: none.
    """

    name: str
    schema: Schema
    pieces: tuple[Piece, ...]
    groups: tuple[Group, ...]
    plan: SplitPlan
    seed: int
    num_sampled: int

    @classmethod
    def of(
        cls,
        name: str,
        schema: Schema,
        pieces: Sequence[Piece],
        plan: SplitPlan,
        *,
        seed: int,
        shard_rows: int,
        num_sampled: int,
    ) -> Dealing:
        """Group the pieces, and name the shards of every group; at most `shard_rows` on average."""
        order = numpy_generator(seed, "pieces").permutation(len(pieces))
        num_groups = -(-len(pieces) // GROUP_PIECES)
        groups: list[Group] = []
        begin: dict[str, int] = dict.fromkeys(SPLIT_NAMES, 0)
        for part in np.array_split(order, num_groups):
            chosen = tuple(sorted(part.tolist()))
            share = sum(pieces[index].num_rows for index in chosen) / plan.num_rows
            shards: dict[str, tuple[str, ...]] = {}
            for split, size in plan.sizes.items():
                if size:
                    count = max(1, -(-round(size * share) // shard_rows))
                    numbers = range(begin[split], begin[split] + count)
                    shards[split] = tuple(part_name(split, number) for number in numbers)
                    begin[split] += count
            groups.append(Group(chosen, shards))
        return cls(name, schema, tuple(pieces), tuple(groups), plan, seed, num_sampled)

    def run(self, ctx: StageContext) -> None:
        """Write the shards."""
        launcher = launcher_for(ctx, self.pieces)
        deals = [Shard(index, self.dealt(ctx, index)) for index in range(len(self.pieces))]
        with ctx.progress.track("Dealing records", total=self.plan.num_rows) as bar:
            launcher.map_shards(_Deal(self), deals, ctx.runtime.num_workers, bar.advance)
        gathers: list[Shard] = []
        for group in self.groups:
            names = [name for names in group.shards.values() for name in names]
            files = [self.dealt(ctx, index) for index in group.pieces]
            for place, name in enumerate(names):
                payload = {"files": files, "place": place, "width": group.width}
                gathers.append(Shard(len(gathers), ctx.output.path(name), payload))
        with ctx.progress.track("Writing shards", total=self.plan.num_rows) as bar:
            worker = _Gather(self.schema)
            launcher.map_shards(worker, gathers, ctx.runtime.num_workers, bar.advance)

    def dealt(self, ctx: StageContext, index: int) -> str:
        """File of a piece that was dealt."""
        return ctx.output.path(WORK_FOLDER, f"dealt-{self.name}-{index:05d}.arrow")

    def sample(self, ctx: StageContext) -> tuple[pa.Table, pa.Table]:
        """The codec's sample of training rows, in the table's order, and what it must not miss.

        The second table has values, not rows: in each column, every category of the training rows,
        or their extremes, and nulls below them; it is empty where the sample has all rows.
        """
        empty = self.schema.arrow_schema.empty_table()
        rows, values = [empty], empty
        for index in range(len(self.pieces)):
            width = self.group_of(index).width
            batches = list(_read_batches(self.dealt(ctx, index), [width, width + 1], width))
            rows += [pa.Table.from_batches([batch]) for batch in batches[::2]]
            found = [pa.Table.from_batches([batch]) for batch in batches[1::2]]
            values = _outermost(pa.concat_tables([values, *found]), self.schema)
        return pa.concat_tables(rows).combine_chunks(), values

    def group_of(self, index: int) -> Group:
        """The group of a piece."""
        return next(group for group in self.groups if index in group.pieces)

    # In the workers ---------------------------------------------------------------------------

    def deal(self, piece: Piece, group: Group) -> Iterator[list[pa.RecordBatch]]:
        """Batches of each chunk of a piece, as the file of the piece holds them."""
        start = piece.start
        for chunk in self._chunks(piece):
            part = self.plan.assign(start, chunk.num_rows)
            drawn = hash_indices(start, chunk.num_rows, seed_key(self.seed, "shard"))
            place = np.zeros(chunk.num_rows, dtype=np.int64)
            begin = 0
            for number, split in enumerate(SPLIT_NAMES):
                count = len(group.shards.get(split, ()))
                if count:
                    mine = part == number
                    place[mine] = begin + (drawn[mine] % np.uint64(count)).astype(np.int64)
                    begin += count
            order = np.argsort(place, kind="stable")
            bounds = np.searchsorted(place[order], np.arange(group.width + 1))
            sorted_chunk = _take(chunk, order)
            yield [
                *(
                    sorted_chunk.slice(begin, end - begin)
                    for begin, end in pairwise(bounds.tolist())
                ),
                *self._for_codec(chunk, start, part == 0),
            ]
            start += chunk.num_rows

    def _chunks(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        limit = max(1, CHUNK_CELLS // len(self.schema.columns))
        held: list[pa.RecordBatch] = []
        for batch in piece.source.canonical_batches(self.schema, piece.first_row):
            if held and sum(b.num_rows for b in held) + batch.num_rows > limit:
                yield _joined(held)
                held = []
            held.append(batch)
        if held:
            yield _joined(held)

    def _for_codec(
        self, chunk: pa.RecordBatch, start: int, is_train: npt.NDArray[np.bool_]
    ) -> list[pa.RecordBatch]:
        """Rows of the sample, and values that it must not miss."""
        if not self.num_sampled:
            return [chunk.slice(0, 0)] * 2
        if self.plan.num_train <= self.num_sampled:
            return [_take(chunk, np.flatnonzero(is_train)), chunk.slice(0, 0)]
        # Rows are drawn by a threshold on a hash of their index: a uniform sample that every
        # worker draws for itself, of the wanted size within the binomial's deviation.
        drawn = hash_indices(start, chunk.num_rows, seed_key(self.seed, "sample_rows"))
        threshold = np.uint64(self.num_sampled / self.plan.num_train * 2.0**64)
        training = pa.Table.from_batches([_take(chunk, np.flatnonzero(is_train))])
        values = _outermost(training, self.schema).to_batches()
        return [
            _take(chunk, np.flatnonzero(is_train & (drawn < threshold))),
            values[0] if values else chunk.slice(0, 0),
        ]


@dataclass(frozen=True)
class _Deal:
    """Builds the worker that deals one piece."""

    dealing: Dealing

    def __call__(self) -> ShardWorker:
        def deal(shard: Shard, on_rows: OnRows) -> None:
            dealing = self.dealing
            group = dealing.group_of(shard.index)
            options = ipc.IpcWriteOptions(compression="lz4")
            with (
                storage.atomic_output(shard.output) as path,
                ipc.new_file(path, dealing.schema.arrow_schema, options=options) as writer,
            ):
                for batches in dealing.deal(dealing.pieces[shard.index], group):
                    for batch in batches:
                        writer.write_batch(batch)
                    on_rows(sum(batch.num_rows for batch in batches[: group.width]))

        return deal


@dataclass(frozen=True)
class _Gather:
    """Builds the worker that gathers one shard."""

    schema: Schema

    def __call__(self) -> ShardWorker:
        def gather(shard: Shard, on_rows: OnRows) -> None:
            places, width = [shard.payload["place"]], shard.payload["width"]
            with ThreadPoolExecutor(_READERS) as pool:  # reading waits for the store
                files = pool.map(
                    lambda file: list(_read_batches(file, places, width)), shard.payload["files"]
                )
                table = pa.Table.from_batches(
                    [batch for batches in files for batch in batches],
                    schema=self.schema.arrow_schema,
                )
            with storage.atomic_output(shard.output) as path:
                pq.write_table(
                    table.combine_chunks(), path, row_group_size=ROW_GROUP_ROWS, compression="zstd"
                )
            on_rows(table.num_rows)

        return gather


def _read_batches(uri: str, places: Iterable[int], width: int) -> Iterator[pa.RecordBatch]:
    """Batches at some places of every chunk in the file of a piece."""
    with storage.open_file(uri) as file, ipc.open_file(pa.PythonFile(file)) as reader:
        for begin in range(0, reader.num_record_batches, width + 2):
            for place in places:
                yield reader.get_batch(begin + place)


def _outermost(table: pa.Table, schema: Schema) -> pa.Table:
    """In each column, every category or the extremes of what is ordered; nulls below them."""
    found: list[pa.Array] = []
    for column in schema.columns:
        values = table.column(column.name).combine_chunks().drop_null()
        if column.kind is ColumnKind.CATEGORICAL:
            values = values.unique()
        elif column.kind in (*NUMERIC_KINDS, *TEMPORAL_KINDS) and len(values):
            extremes = pc.min_max(values)
            values = pa.array([extremes["min"].as_py(), extremes["max"].as_py()], values.type)
        else:
            values = values.slice(0, 0)
        found.append(values)
    longest = max(len(values) for values in found)
    padded = [
        pa.concat_arrays([values, pa.nulls(longest - len(values), values.type)]) for values in found
    ]
    return pa.Table.from_arrays(padded, schema=schema.arrow_schema)


def _take(batch: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> pa.RecordBatch:
    return batch.take(pa.array(rows))


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
