"""Stage 4: train the diffusion on the latents, and bundle all that generation needs.

The bundle adds diffusion.json, diffusion.safetensors and model_card.md to the VAE's files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from difflm_core.artifacts import ArtifactWriter, GeneratorBundle, Latents, VaeCheckpoint
from difflm_core.config import DiffusionConfig, RuntimeConfig
from difflm_core.parallel import Worker
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import SCALER_FILE, load_codec, shard_readers
from difflm_core.stages.loop import checkpoint_file, loop_options

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from difflm_core.codec.records import RecordCodec

CARD_FILE = "model_card.md"


def train_diffusion(
    ctx: StageContext, cfg: DiffusionConfig, latents: Latents, vae: VaeCheckpoint
) -> GeneratorBundle:
    """Train the latent diffusion, and bundle it with the text-VAE and the codec."""
    from safetensors.torch import save_file

    from difflm_core.codec.records import RecordCodec
    from difflm_core.generation.bundle import CALIBRATION_FILE
    from difflm_core.generation.card import TrainingFacts, model_card

    training = _Training(cfg, latents, ctx.output, ctx.seed, ctx.runtime)
    result = ctx.launcher.run_workers(training, ctx.runtime.num_workers, ctx.progress)[0]
    codec = load_codec(vae)
    num_training = sum(entry.rows or 0 for entry in latents.files("train", ".parquet"))
    facts = TrainingFacts(
        num_training, ctx.seed, vae.manifest.summary, result, settings_of(cfg, vae)
    )
    with ctx.output.folder() as folder:
        if isinstance(codec, RecordCodec):
            bias_V = _calibration(ctx, vae, codec)
            save_file({"bias": bias_V}, folder / CALIBRATION_FILE)
        card = model_card(codec.schema, facts)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
    for entry in vae.manifest.files:
        with vae.local(entry.path) as source, ctx.output.file(entry.path) as target:
            shutil.copyfile(source, target)
    return ctx.finish(GeneratorBundle, num_training_rows=num_training, **result)


def _calibration(ctx: StageContext, vae: VaeCheckpoint, codec: RecordCodec) -> torch.Tensor:
    """Biases that give a generated table the marginals of the training table."""
    from difflm_core.device import choose_compute
    from difflm_core.generation.bundle import load_diffusion, load_vae
    from difflm_core.generation.calibration import calibrate
    from difflm_core.generation.generator import DiffusionLatents
    from difflm_core.vae.model import RecordVae

    compute = choose_compute(ctx.runtime.device, ctx.runtime.precision)
    with vae.local() as folder:
        model = cast("RecordVae", load_vae(folder, codec, compute))
    with ctx.output.read("") as folder:
        latents = DiffusionLatents(*load_diffusion(folder, compute.device))
    return calibrate(model, codec.grammar, codec.token_share, latents, seed=ctx.seed)


@dataclass(frozen=True)
class _Training:
    """What each worker of the group does; the first one writes the weights."""

    cfg: DiffusionConfig
    latents: Latents
    output: ArtifactWriter
    seed: int
    runtime: RuntimeConfig

    def __call__(self, worker: Worker) -> dict[str, float]:
        import torch
        from safetensors.torch import load_file

        from difflm_core.device import choose_device
        from difflm_core.diffusion.model import DenoiserSize, LatentDiffusion, SamplerOptions
        from difflm_core.diffusion.training import (
            DiffusionRecipe,
            LatentBatches,
            train_latent_diffusion,
        )
        from difflm_core.generation.bundle import save_diffusion
        from difflm_core.latents import LatentBatch, LatentScaler
        from difflm_core.seeds import seed_of

        cfg = self.cfg
        with self.latents.local(SCALER_FILE) as path:
            tensors = load_file(path)
        scaler = LatentScaler(tensors["mean"], tensors["std"])

        def scaled(read: Callable[[], pa.Table]) -> LatentBatch:
            return scaler.scale(LatentBatch.from_arrow(read()))

        training = [
            (rows, partial(scaled, read))
            for rows, read in shard_readers(self.latents, "train")
            if rows
        ]
        valid = next(
            (scaled(read) for rows, read in shard_readers(self.latents, "valid") if rows), None
        )
        torch.manual_seed(seed_of(self.seed, "denoiser"))
        diffusion = LatentDiffusion(DenoiserSize(len(scaler.mean), cfg.width, cfg.num_blocks))
        diffusion.scaler = scaler
        diffusion.to(choose_device(self.runtime.device))
        result = train_latent_diffusion(
            diffusion,
            LatentBatches(training, batch_rows=cfg.batch_rows, seed=self.seed),
            valid,
            DiffusionRecipe(
                num_steps=cfg.num_steps,
                batch_rows=cfg.batch_rows,
                lr=cfg.lr,
                clip_norm=cfg.clip_norm,
                log_sigma_mean=cfg.log_sigma_mean,
                log_sigma_std=cfg.log_sigma_std,
            ),
            loop_options(cfg),
            seed=self.seed,
            checkpoint=checkpoint_file(self.output),
            worker=worker,
        )
        if worker.rank == 0:
            sampler = SamplerOptions(cfg.sampler_steps, cfg.sigma_min, cfg.sigma_max)
            with self.output.folder() as folder:
                save_diffusion(diffusion, sampler, folder)
        return result


def settings_of(cfg: DiffusionConfig, vae: VaeCheckpoint) -> dict[str, dict[str, Any]]:
    """Settings that made the model, by section, for its card."""
    return {**vae.manifest.recipe["config"], "diffusion": cfg.fingerprint_values()}


STAGE = Stage(train_diffusion, version=3)
