"""Stage 2: train the text-VAE on the corpus.

The checkpoint holds vae.json, vae.safetensors and the codec; every evaluation is an event in
metrics.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from difflm_core.artifacts import ArtifactWriter, Corpus, VaeCheckpoint
from difflm_core.config import RuntimeConfig, VaeConfig
from difflm_core.parallel import Worker
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import CODEC_FOLDER, load_codec, shard_readers
from difflm_core.stages.loop import checkpoint_file, loop_options
from difflm_core.stages.untrained import untrained

if TYPE_CHECKING:
    from difflm_core.vae.document_model import DocumentVae
    from difflm_core.vae.model import RecordVae
    from difflm_core.vae.training import VaeRecipe, VaeReport


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
        from difflm_core.engines import Sharding, export, trained_parameters
        from difflm_core.generation.bundle import save_vae
        from difflm_core.vae.batches import RecordShard
        from difflm_core.vae.training import train_text_vae

        cfg, runtime = self.cfg, self.runtime
        codec = load_codec(self.corpus)
        shards = {
            split: [RecordShard(rows, read) for rows, read in shard_readers(self.corpus, split)]
            for split in ("train", "valid")
        }
        compute = choose_compute(runtime.device, runtime.precision)
        start = untrained(cfg, codec, shards, self.seed, compute)
        vae = start.build().to(compute.device)
        vae.use_precision(compute.precision)
        if runtime.activation_checkpointing:
            vae.decoder.checkpoint_activations()
        report, engine = train_text_vae(
            vae,
            start.batches,
            start.valid,
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
            trained = start.build()
            for name, parameter in trained_parameters(trained).items():
                parameter.data.copy_(whole[name])
            with self.output.folder() as folder:
                save_vae(cast("RecordVae | DocumentVae", trained), folder)
        return report


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
        pretrained_lr=cfg.pretrained_lr,
    )


STAGE = Stage(train_vae, version=1)
