"""The first pass of serialization: what every column holds, piece by piece of the table.

work/profile-00000.json    the profile of one piece
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from difflm_core import storage
from difflm_core.artifacts import WORK_FOLDER
from difflm_core.parallel import Launcher, LocalLauncher, OnRows, Shard, ShardWorker

if TYPE_CHECKING:
    from difflm_core.data.readers import Source
    from difflm_core.data.schema import DataKind, Schema
    from difflm_core.stage import StageContext


@dataclass(frozen=True)
class Piece:
    """A part of a table whose rows were counted.

    Attributes:
        source: Its records.
        start: Rows of the table before it.
        first_row: Rows of its file before it.
        num_rows: Its rows.
    """

    source: Source
    start: int
    first_row: int
    num_rows: int


def launcher_for(ctx: StageContext, pieces: Sequence[object]) -> Launcher:
    """Where pieces are worked on; one alone is done here sooner than elsewhere."""
    return ctx.launcher if len(pieces) > 1 else LocalLauncher()


@dataclass(frozen=True)
class Profiler:
    """Profiles pieces of one source, in any number of processes.

    Attributes:
        target: Target column.
        declared: What is known of the schema.
        missing_values: Spellings that mean "missing" in every column.
        kind: What the records are.
    """

    target: str | None
    declared: Schema | None
    missing_values: tuple[str, ...]
    kind: DataKind

    def run(self, ctx: StageContext, name: str, source: Source) -> tuple[Any, list[Piece]]:
        """Profile a source.

        Args:
            ctx: Of the stage.
            name: Of the table, for its files.
            source: The table.

        Raises:
            DataError: a file cannot be read.
            SchemaError: the target or a declared column is not in the data.
        """
        whole = self.begin(source)
        sources = source.pieces()
        shards = [
            Shard(i, ctx.output.path(WORK_FOLDER, f"profile-{name}-{i:05d}.json"))
            for i in range(len(sources))
        ]
        with ctx.progress.track("Profiling records") as bar:
            worker = _Profile(self, sources)
            launcher = launcher_for(ctx, sources)
            launcher.map_shards(worker, shards, ctx.runtime.num_workers, bar.advance)
        pieces: list[Piece] = []
        first_row, label = 0, None
        for part, shard in zip(sources, shards, strict=True):
            if part.readers[0].label != label:
                first_row, label = 0, part.readers[0].label
            profile = self.begin(source)
            profile.load(json.loads(storage.read_text(shard.output)))
            pieces.append(Piece(part, whole.num_rows, first_row, profile.num_rows))
            first_row += profile.num_rows
            whole.merge(profile)
        return whole, pieces

    def begin(self, source: Source) -> Any:
        """The empty profile of a source."""
        from difflm_core.data.document_profile import DocumentProfile
        from difflm_core.data.inference import begin_profile
        from difflm_core.data.schema import DataKind

        if self.kind is not DataKind.TABLE:
            return DocumentProfile(self.kind)
        return begin_profile(source, self.target, self.declared, self.missing_values)


@dataclass(frozen=True)
class _Profile:
    """Builds the worker that profiles one piece."""

    profiler: Profiler
    sources: Sequence[Source]

    def __call__(self) -> ShardWorker:
        def profile_piece(shard: Shard, on_rows: OnRows) -> None:
            source = self.sources[shard.index]
            profile = self.profiler.begin(source)
            for batch in source.batches():
                profile.add(batch)
                on_rows(batch.num_rows)
            storage.write_text(shard.output, json.dumps(profile.to_json()))

        return profile_piece
