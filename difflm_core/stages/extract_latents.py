"""Stage 3: the posterior of every record.

train|valid/part-00000.parquet   columns mean, std: fixed-size lists of float32
scaler.safetensors               mean and std of the aggregate posterior
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from difflm_core import storage
from difflm_core.artifacts import Corpus, Latents, VaeCheckpoint
from difflm_core.config import LatentsConfig, RuntimeConfig
from difflm_core.parallel import OnRows, Shard, ShardWorker
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import (
    SCALER_FILE,
    load_codec,
    part_name,
    read_parquet,
    shard_files,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from difflm_core.codec.loading import AnyCodec
    from difflm_core.latents import LatentBatch
    from difflm_core.vae.model import Rows, TextVae

SPLITS = ("train", "valid")


def extract_latents(
    ctx: StageContext, cfg: LatentsConfig, corpus: Corpus, vae: VaeCheckpoint
) -> Latents:
    """Encode every training and validation record into its Gaussian posterior."""
    from safetensors.torch import save_file

    from difflm_core.latents import LatentBatch, LatentScaler, active_dimensions

    shards: list[Shard] = []
    for split in SPLITS:
        for index, entry in enumerate(shard_files(corpus, split)):
            output = ctx.output.path(part_name(split, index))
            shards.append(Shard(len(shards), output, {"records": corpus.path(entry.path)}))
    total = sum(e.rows or 0 for split in SPLITS for e in shard_files(corpus, split))
    worker = _Encode(vae, cfg.batch_rows, ctx.seed, ctx.runtime)
    with ctx.progress.track("Extracting latents", total=total) as bar:
        ctx.launcher.map_shards(worker, shards, ctx.runtime.num_workers, bar.advance)
    training = [s.output for s in shards if f"/{SPLITS[0]}/" in s.output]

    def read(uri: str) -> LatentBatch:
        return LatentBatch.from_arrow(read_parquet(uri))

    scaler = LatentScaler.fit(read(uri) for uri in training)
    with ctx.output.file(SCALER_FILE) as path:
        save_file({"mean": scaler.mean, "std": scaler.std}, path)
    return ctx.finish(
        Latents,
        num_rows=total,
        latent_dim=int(scaler.mean.shape[0]),
        active_dims=active_dimensions(read(training[0]).mean),
    )


@dataclass(frozen=True)
class _Encode:
    """Builds the worker that encodes one shard."""

    checkpoint: VaeCheckpoint
    batch_rows: int
    seed: int
    runtime: RuntimeConfig

    def __call__(self) -> ShardWorker:
        import pyarrow.parquet as pq

        from difflm_core.device import choose_compute
        from difflm_core.generation.bundle import load_vae

        codec = load_codec(self.checkpoint)
        compute = choose_compute(self.runtime.device, self.runtime.precision)
        with self.checkpoint.local() as folder:
            vae = load_vae(folder, codec, compute)

        def encode(shard: Shard, on_rows: OnRows) -> None:
            records = read_parquet(shard.payload["records"])
            latents = encode_records(
                vae, codec, records, batch_rows=self.batch_rows, seed=(self.seed, shard.index)
            )
            with storage.atomic_output(shard.output) as path:
                pq.write_table(latents.to_arrow(), path, compression="zstd")
            on_rows(records.num_rows)

        return encode


def encode_records(
    vae: TextVae, codec: AnyCodec, records: pa.Table, *, batch_rows: int, seed: tuple[int, int]
) -> LatentBatch:
    """Posteriors of `records`; repeated values are spread over their rank by `seed`.

    Documents that are too long have none.
    """
    import torch

    from difflm_core.latents import LatentBatch
    from difflm_core.threads import map_in_order

    device = next(vae.parameters()).device

    def posterior(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            mean_BD, logvar_BD = vae.posterior(rows.to(device))
            return mean_BD.cpu(), (0.5 * logvar_BD).exp().cpu()

    batches = _batches(vae, codec, records, batch_rows, seed)
    empty = torch.empty(0, vae.latent_dim)
    parts = [(empty, empty), *map_in_order(posterior, batches)]
    means, stds = zip(*parts, strict=True)
    return LatentBatch(torch.cat(means), torch.cat(stds))


def _batches(
    vae: TextVae, codec: AnyCodec, records: pa.Table, batch_rows: int, seed: tuple[int, int]
) -> Iterator[Rows]:
    import numpy as np
    import torch

    from difflm_core.codec.text import TextCodec
    from difflm_core.seeds import numpy_generator
    from difflm_core.vae.document_model import DocumentVae
    from difflm_core.vae.document_rows import DocumentReader

    if isinstance(codec, TextCodec):
        tokenizer = vae.encoder_tokenizer if isinstance(vae, DocumentVae) else None
        documents = DocumentReader(codec, tokenizer).read(records)
        for first in range(0, len(documents), batch_rows):
            yield documents.rows(np.arange(first, min(first + batch_rows, len(documents))))
        return
    ids_NT = codec.encode(records, numpy_generator(seed[0], "extract", seed[1])).ids
    for part in torch.from_numpy(ids_NT).split(batch_rows):
        yield part.long()


STAGE = Stage(extract_latents, version=1)
