"""Training of the text-VAE in two phases.

First the language model alone learns to write records, until validation stops improving; then
encoder and injection join it, with zero effect at first, and all train together while the learning
rate falls to zero. One phase for everything leaves both the language model and the latents worse.

Shape legend: B batch, N rows, T slots, D latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from difflm_core.latents import active_dimensions
from difflm_core.progress import SILENT, Progress
from difflm_core.seeds import seed_of
from difflm_core.training import LoopOptions, LoopState, Phase, TrainingLoop, build_optimizers
from difflm_core.vae.batches import TrainingBatches
from difflm_core.vae.model import TextVae
from difflm_core.vae.objective import BetaSchedule, free_bits, gaussian_kl, sample_posterior

EVALUATION_ROWS = 512


LANGUAGE, JOINT = "language model", "joint"


@dataclass(frozen=True)
class VaeRecipe:
    """How a text-VAE is trained.

    Attributes:
        max_tokens: Most tokens read in training.
        language_share: Share of the steps that train the language model alone.
        use_latents: Whether encoder and latent join in the second phase; else the language model
            goes on alone.
        lr: Learning rate of embeddings, biases and norms (AdamW).
        matrix_lr: Learning rate of the hidden matrices (Muon).
        weight_decay: Weight decay of both.
        beta: Weight of the KL divergence, and how it moves.
        free_nats: KL of each latent dimension that costs nothing, in nats.
        latent_noise: Standard deviation of noise added to the decoder's latent in training.
    """

    max_tokens: int
    language_share: float
    use_latents: bool
    lr: float
    matrix_lr: float
    weight_decay: float
    beta: BetaSchedule
    free_nats: float
    latent_noise: float = 0.0


@dataclass(frozen=True)
class VaeReport:
    """What validation says of a trained text-VAE, in nats per record; None without validation.

    Attributes:
        reconstruction: Negative log-likelihood given the posterior's latent.
        kl: KL divergence of the posterior from the prior.
        active_dims: Latent dimensions in use.
        language_model: Negative log-likelihood of the language model alone, at its best.
        num_steps: Steps trained.
    """

    reconstruction: float | None
    kl: float | None
    active_dims: int | None
    language_model: float | None
    num_steps: int


def plan_phases(recipe: VaeRecipe, tokens_per_step: int) -> list[Phase]:
    """Phases of a run: the language model until it stops improving, then a longer decay."""
    steps = max(2, recipe.max_tokens // tokens_per_step)
    language = max(1, round(steps * recipe.language_share))
    share = (1 - recipe.language_share) / recipe.language_share
    second = JOINT if recipe.use_latents else LANGUAGE
    return [Phase(LANGUAGE, language), Phase(second, share=share, decays=True)]


def train_text_vae(
    vae: TextVae,
    batches: TrainingBatches,
    valid_NT: Tensor,
    recipe: VaeRecipe,
    options: LoopOptions,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress = SILENT,
) -> VaeReport:
    """Train `vae` in place and leave it with its last averaged weights.

    Args:
        vae: The model.
        batches: Training batches.
        valid_NT: Token ids of validation records; training goes to its end if there are none.
        recipe: How to train.
        options: Clipping, averaging, evaluation, checkpoints.
        seed: Seed of the run.
        checkpoint: File to continue from and to write.
        progress: Where the run is reported.
    """
    device = next(vae.parameters()).device
    rows = min(batches.batch_rows, batches.num_rows)
    phases = plan_phases(recipe, rows * valid_NT.shape[1])
    optimizers = build_optimizers(
        vae,
        hidden_matrices(vae),
        matrix_lr=recipe.matrix_lr,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
    )
    loop = TrainingLoop(
        vae,
        optimizers,
        phases,
        options,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )

    def loss_of_step(step: int, phase: str) -> tuple[Tensor, Mapping[str, Tensor]]:
        ids_BT = batches.batch(step).to(device)
        if phase == LANGUAGE:
            nll_B, _ = vae(ids_BT, None)
            return nll_B.mean(), {}
        noise = _normal(seed_of(seed, "vae", step), (2, ids_BT.shape[0], vae.size.latent_dim))
        noise = noise.to(device)
        mean_BD, logvar_BD = vae.posterior(ids_BT)
        z_BD = sample_posterior(mean_BD, logvar_BD, noise[0])
        if recipe.latent_noise:
            z_BD = z_BD + recipe.latent_noise * noise[1]
        kl_BD = gaussian_kl(mean_BD, logvar_BD)
        nll = vae.decoder(ids_BT, z_BD).mean()
        beta = recipe.beta.value(loop.state.history)
        return nll + beta * free_bits(kl_BD, recipe.free_nats), {"kl": kl_BD.sum(dim=1).mean()}

    def evaluate(phase: str) -> tuple[float | None, dict[str, float]]:
        if not len(valid_NT):
            return None, {}
        if phase == LANGUAGE:
            score = score_language_model(vae, valid_NT)
            return score, {"language_model": score}
        metrics = measure(vae, valid_NT, seed=seed, free_nats=recipe.free_nats)
        # The objective itself: information that costs nothing does not count against the score.
        counted = recipe.beta.value(loop.state.history) * metrics["counted_kl"]
        return metrics["reconstruction"] + counted, metrics

    state = loop.run(loss_of_step, evaluate, description="Training the text-VAE")
    return _report(vae, valid_NT, state, seed)


def hidden_matrices(vae: TextVae) -> Sequence[nn.Parameter]:
    """The matrices inside the transformers' blocks, which Muon trains."""
    blocks = [vae.decoder.language_model.transformer.h, vae.encoder.bert.encoder, vae.encoder.mix]
    return [p for block in blocks for p in block.parameters() if p.ndim == 2]


@torch.inference_mode()
def score_language_model(vae: TextVae, ids_NT: Tensor) -> float:
    """Negative log-likelihood without a latent, in nats per record."""
    device = next(vae.parameters()).device
    parts = [vae.decoder(ids_BT.to(device), None) for ids_BT in ids_NT.split(EVALUATION_ROWS)]
    return float(torch.cat(parts).mean())


@torch.inference_mode()
def measure(vae: TextVae, ids_NT: Tensor, *, seed: int, free_nats: float = 0.0) -> dict[str, float]:
    """Reconstruction, KL (nats per record) and active dimensions on fixed noise.

    `counted_kl` is the KL that the objective counts: at least `free_nats` in each dimension.
    """
    device = next(vae.parameters()).device
    noise_ND = _normal(seed_of(seed, "valid"), (len(ids_NT), vae.size.latent_dim))
    nll: list[Tensor] = []
    kl: list[Tensor] = []
    means: list[Tensor] = []
    for ids_BT, noise_BD in zip(
        ids_NT.split(EVALUATION_ROWS), noise_ND.split(EVALUATION_ROWS), strict=True
    ):
        mean_BD, logvar_BD = vae.posterior(ids_BT.to(device))
        z_BD = sample_posterior(mean_BD, logvar_BD, noise_BD.to(device))
        nll.append(vae.decoder(ids_BT.to(device), z_BD))
        kl.append(gaussian_kl(mean_BD, logvar_BD))
        means.append(mean_BD)
    return {
        "reconstruction": float(torch.cat(nll).mean()),
        "kl": float(torch.cat(kl).sum(dim=1).mean()),
        "counted_kl": float(free_bits(torch.cat(kl), free_nats)),
        "active_dims": active_dimensions(torch.cat(means)) if len(ids_NT) > 1 else 0,
    }


def _report(vae: TextVae, valid_NT: Tensor, state: LoopState, seed: int) -> VaeReport:
    language = [e["language_model"] for e in state.history if "language_model" in e]
    metrics = measure(vae, valid_NT, seed=seed) if len(valid_NT) else {}
    return VaeReport(
        reconstruction=metrics.get("reconstruction"),
        kl=metrics.get("kl"),
        active_dims=None if not metrics else int(metrics["active_dims"]),
        language_model=min(language, default=None),
        num_steps=state.step,
    )


def _normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
