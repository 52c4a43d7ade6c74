"""Stage 2: train the text-VAE on the corpus.

The checkpoint holds vae.json, vae.safetensors and the codec; every evaluation is an event in
metrics.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from difflm_core.artifacts import ArtifactWriter, Corpus, VaeCheckpoint
from difflm_core.config import RuntimeConfig, VaeConfig
from difflm_core.parallel import Worker
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import CODEC_FOLDER, load_codec, shard_readers
from difflm_core.stages.loop import checkpoint_file, loop_options

if TYPE_CHECKING:
    from difflm_core.codec.records import RecordCodec
    from difflm_core.vae.model import TextVae
    from difflm_core.vae.training import VaeRecipe, VaeReport

DROPOUT_PER_PASS = 0.01
MAX_DROPOUT = 0.3


def train_vae(ctx: StageContext, cfg: VaeConfig, corpus: Corpus) -> VaeCheckpoint:
    """Train the language model on the records, then encoder and latent with it."""
    import dataclasses

    training = _Training(cfg, corpus, ctx.output, ctx.seed, ctx.runtime)
    report = ctx.launcher.run_workers(training, ctx.runtime.num_workers, ctx.progress)[0]
    with ctx.output.folder(CODEC_FOLDER) as folder:
        load_codec(corpus).save(folder)
    return ctx.finish(VaeCheckpoint, **dataclasses.asdict(report))


@dataclass(frozen=True)
class _Training:
    """What each worker of the group does; the first one writes the weights."""

    cfg: VaeConfig
    corpus: Corpus
    output: ArtifactWriter
    seed: int
    runtime: RuntimeConfig

    def __call__(self, worker: Worker) -> VaeReport:
        from difflm_core.device import choose_compute
        from difflm_core.engines import Sharding, export
        from difflm_core.generation.bundle import save_vae
        from difflm_core.vae.batches import RecordShard, TrainingBatches, fixed_ids
        from difflm_core.vae.training import train_text_vae

        cfg, runtime = self.cfg, self.runtime
        codec = load_codec(self.corpus)
        shards = {
            split: [RecordShard(rows, read) for rows, read in shard_readers(self.corpus, split)]
            for split in ("train", "valid")
        }
        batches = TrainingBatches(shards["train"], codec, batch_rows=cfg.batch_rows, seed=self.seed)
        valid = fixed_ids(
            shards["valid"], codec, max_rows=cfg.valid_rows, seed=self.seed, purpose="valid"
        )
        compute = choose_compute(runtime.device, runtime.precision)
        vae = build_vae(cfg, codec, self.seed, batches.num_rows).to(compute.device)
        vae.use_precision(compute.precision)
        if runtime.activation_checkpointing:
            vae.decoder.checkpoint_activations()
        report, engine = train_text_vae(
            vae,
            batches,
            valid,
            recipe_of(cfg),
            loop_options(cfg),
            seed=self.seed,
            sharding=Sharding(runtime.zero_stage, runtime.offload),
            num_parts=runtime.accumulation_steps,
            checkpoint=checkpoint_file(self.output),
            worker=worker,
        )
        whole = export(engine, worker)
        if worker.rank == 0:
            # A copy of its own: the trained one may hold a part of its weights only.
            trained = build_vae(cfg, codec, self.seed, batches.num_rows)
            for name, parameter in trained.named_parameters():
                parameter.data.copy_(whole[name])
            with self.output.folder() as folder:
                save_vae(trained, folder)
        return report


def choose_dropout(max_tokens: int, table_tokens: int) -> float:
    """Dropout by how often training may read the table (docs/adr/0016)."""
    passes = max_tokens / max(1, table_tokens)
    return round(min(MAX_DROPOUT, DROPOUT_PER_PASS * passes), 3)


def build_vae(cfg: VaeConfig, codec: RecordCodec, seed: int, num_rows: int) -> TextVae:
    """The untrained text-VAE of a configuration, with ordered embeddings for numbers.

    Args:
        cfg: Its size, and its dropout.
        codec: Of the records.
        seed: Seed of the run.
        num_rows: Training records, by which the dropout is chosen where none is given.
    """
    import torch

    from difflm_core.seeds import seed_of
    from difflm_core.vae.decoder import DecoderSize, order_embeddings
    from difflm_core.vae.encoder import EncoderSize
    from difflm_core.vae.model import TextVae, VaeSize

    torch.manual_seed(seed_of(seed, "weights"))
    dropout = cfg.dropout
    if dropout is None:
        dropout = choose_dropout(cfg.max_tokens, num_rows * len(codec.grammar))
    size = VaeSize(
        decoder=DecoderSize(cfg.width, cfg.num_layers, cfg.num_heads, dropout),
        encoder=EncoderSize(cfg.width, cfg.encoder_layers, cfg.num_heads, 2 * cfg.width),
        latent_dim=cfg.latent_dim,
        num_prompts=cfg.num_prompts,
        injection=cfg.injection,
        hidden_slots=target_slots(codec) if cfg.hide_target else (),
    )
    vae = TextVae(size, codec.grammar)
    generator = torch.Generator().manual_seed(seed_of(seed, "order"))
    order_embeddings(vae.decoder.embeddings, codec.vocab_order, codec.grammar, generator)
    return vae


def target_slots(codec: RecordCodec) -> tuple[int, ...]:
    """Slots of the target column; none if the record has no other column."""
    target = codec.schema.target
    column = codec.schema.names.index(target) if target else -1
    slots = [slot for slot, owner in enumerate(codec.slot_column) if owner == column]
    return tuple(slots) if len(slots) < len(codec.grammar) else ()


def recipe_of(cfg: VaeConfig) -> VaeRecipe:
    """The training recipe of a configuration."""
    from difflm_core.vae.objective import BetaSchedule
    from difflm_core.vae.training import VaeRecipe

    return VaeRecipe(
        max_tokens=cfg.max_tokens,
        language_share=cfg.language_share,
        use_latents=cfg.use_latents,
        muon=cfg.optimizer == "muon",
        lr=cfg.lr,
        matrix_lr=cfg.matrix_lr,
        weight_decay=cfg.weight_decay,
        clip_norm=cfg.clip_norm,
        beta=BetaSchedule(cfg.beta, cfg.beta_end, cfg.beta_decay),
        free_nats=cfg.free_nats,
        latent_noise=cfg.latent_noise,
    )


STAGE = Stage(train_vae, version=1)
