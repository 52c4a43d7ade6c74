"""What artifacts hold, for the stages that read them.

schema.json                          the schema of the records
codec/                               the fitted record codec
train|valid|test/part-00000.parquet  canonical records (or their latents), in shards
scaler.safetensors                   the scaler of the latents
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from difflm_core import storage

if TYPE_CHECKING:
    import pyarrow as pa

    from difflm_core.artifacts import Artifact, Corpus, FileEntry
    from difflm_core.codec.loading import AnyCodec
    from difflm_core.data.schema import Schema

SCHEMA_FILE = "schema.json"
CODEC_FOLDER = "codec"
SCALER_FILE = "scaler.safetensors"
REJECTIONS_FILE = "rejections.json"


def part_name(split: str, index: int) -> str:
    """Path of a shard of records inside a corpus."""
    return f"{split}/part-{index:05d}.parquet"


def read_parquet(uri: str) -> pa.Table:
    """Read one shard."""
    import pyarrow.parquet as pq

    with storage.open_file(uri) as file:
        return pq.read_table(file)


def shard_files(artifact: Artifact, folder: str) -> list[FileEntry]:
    """Shards under `folder`, in order; one that got no rows is left out."""
    return [entry for entry in artifact.files(folder, ".parquet") if entry.rows]


def shard_readers(artifact: Artifact, folder: str) -> list[tuple[int, Callable[[], pa.Table]]]:
    """Number of rows and reader of every shard under `folder`, in order."""
    return [
        (entry.rows or 0, partial(read_parquet, artifact.path(entry.path)))
        for entry in shard_files(artifact, folder)
    ]


def read_split(corpus: Corpus, split: str, schema: Schema, max_rows: int | None = None) -> pa.Table:
    """All records of a split, or the first `max_rows` of them."""
    import pyarrow as pa

    tables: list[pa.Table] = []
    left = max_rows
    for num_rows, read in shard_readers(corpus, split):
        if left is not None and left <= 0:
            break
        table = read() if left is None else read().slice(0, left)
        left = None if left is None else left - num_rows
        tables.append(table)
    return pa.concat_tables(tables) if tables else schema.arrow_schema.empty_table()


def load_schema(artifact: Artifact) -> Schema:
    """The schema of a corpus or of synthetic data."""
    from difflm_core.data.schema import Schema

    return Schema.load(artifact.path(SCHEMA_FILE))


def load_codec(artifact: Artifact) -> AnyCodec:
    """The codec of a corpus or of a model."""
    from difflm_core.codec.loading import load_codec as load

    with artifact.local(CODEC_FOLDER) as folder:
        return load(folder)
