"""Stage 4: train the diffusion on the latents, and bundle all that generation needs.

The bundle adds diffusion.json, diffusion.safetensors and model_card.md to the VAE's files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from difflm_core.artifacts import GeneratorBundle, Latents, VaeCheckpoint
from difflm_core.config import DiffusionConfig
from difflm_core.stage import Stage, StageContext
from difflm_core.stages.corpus import SCALER_FILE, load_codec, shard_readers
from difflm_core.stages.loop import checkpoint_file, loop_options

if TYPE_CHECKING:
    import pyarrow as pa

CARD_FILE = "model_card.md"


def train_diffusion(
    ctx: StageContext, cfg: DiffusionConfig, latents: Latents, vae: VaeCheckpoint
) -> GeneratorBundle:
    """Train the latent diffusion, and bundle it with the text-VAE and the codec."""
    import torch
    from safetensors.torch import load_file, save_file

    from difflm_core.device import choose_compute
    from difflm_core.diffusion.model import DenoiserSize, LatentDiffusion, SamplerOptions
    from difflm_core.diffusion.training import (
        DiffusionRecipe,
        LatentBatches,
        train_latent_diffusion,
    )
    from difflm_core.generation.bundle import CALIBRATION_FILE, load_vae, save_diffusion
    from difflm_core.generation.calibration import calibrate
    from difflm_core.generation.card import TrainingFacts, model_card
    from difflm_core.generation.generator import diffusion_latents
    from difflm_core.latents import LatentBatch, LatentScaler
    from difflm_core.seeds import seed_of

    with latents.local(SCALER_FILE) as path:
        tensors = load_file(path)
    scaler = LatentScaler(tensors["mean"], tensors["std"])

    def scaled(read: Callable[[], pa.Table]) -> LatentBatch:
        return scaler.scale(LatentBatch.from_arrow(read()))

    training = [
        (rows, partial(scaled, read)) for rows, read in shard_readers(latents, "train") if rows
    ]
    valid = next((scaled(read) for rows, read in shard_readers(latents, "valid") if rows), None)
    torch.manual_seed(seed_of(ctx.seed, "denoiser"))
    size = DenoiserSize(len(scaler.mean), cfg.width, cfg.num_blocks)
    diffusion = LatentDiffusion(size)
    diffusion.scaler = scaler
    compute = choose_compute(ctx.runtime.device, ctx.runtime.precision)
    diffusion.to(compute.device)
    result = train_latent_diffusion(
        diffusion,
        LatentBatches(training, batch_rows=cfg.batch_rows, seed=ctx.seed),
        valid,
        DiffusionRecipe(
            num_steps=cfg.num_steps,
            batch_rows=cfg.batch_rows,
            lr=cfg.lr,
            log_sigma_mean=cfg.log_sigma_mean,
            log_sigma_std=cfg.log_sigma_std,
        ),
        loop_options(cfg),
        seed=ctx.seed,
        checkpoint=checkpoint_file(ctx),
        progress=ctx.progress,
    )
    sampler = SamplerOptions(cfg.sampler_steps, cfg.sigma_min, cfg.sigma_max)
    num_training = sum(entry.rows or 0 for entry in latents.files("train", ".parquet"))
    codec = load_codec(vae)
    with vae.local() as folder:
        decoder = load_vae(folder, codec, compute)
    bias_V = calibrate(
        decoder,
        codec.grammar,
        codec.token_share,
        diffusion_latents(diffusion, sampler),
        seed=ctx.seed,
    )
    with ctx.output.folder() as folder:
        save_diffusion(diffusion, sampler, folder)
        save_file({"bias": bias_V}, folder / CALIBRATION_FILE)
        facts = TrainingFacts(
            num_training, ctx.seed, vae.manifest.summary, result, settings_of(cfg, vae)
        )
        card = model_card(codec.schema, facts)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
    for entry in vae.manifest.files:
        with vae.local(entry.path) as source, ctx.output.file(entry.path) as target:
            shutil.copyfile(source, target)
    return ctx.finish(GeneratorBundle, num_training_rows=num_training, **result)


def settings_of(cfg: DiffusionConfig, vae: VaeCheckpoint) -> dict[str, dict[str, Any]]:
    """Settings that made the model, by section, for its card."""
    return {**vae.manifest.recipe["config"], "diffusion": cfg.fingerprint_values()}


STAGE = Stage(train_diffusion, version=3)
