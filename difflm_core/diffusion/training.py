"""Training of the latent diffusion on samples of the posterior, not only on its means.

Shape legend: B batch, N rows, D latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from difflm_core import collective
from difflm_core.diffusion.loss import denoising_loss
from difflm_core.diffusion.model import LatentDiffusion
from difflm_core.diffusion.noise import training_sigma
from difflm_core.engines import OptimizerOptions, build_engine
from difflm_core.latents import LatentBatch
from difflm_core.parallel import ALONE, Worker
from difflm_core.seeds import numpy_generator, seed_of
from difflm_core.training import LoopOptions, Phase, TrainingLoop

VALIDATION_DRAWS = 4
# Share of the steps in which the learning rate falls to zero.
DECAY_SHARE = 0.6


@dataclass(frozen=True)
class DiffusionRecipe:
    """How the diffusion is trained.

    Attributes:
        num_steps: Training steps.
        batch_rows: Latents in a step.
        lr: Learning rate (AdamW).
        clip_norm: Largest norm of the gradient.
        log_sigma_mean: Mean of the log noise level seen in training.
        log_sigma_std: Its standard deviation.
    """

    num_steps: int
    batch_rows: int
    lr: float
    clip_norm: float
    log_sigma_mean: float
    log_sigma_std: float


class LatentBatches:
    """Scaled posteriors by step, shard by shard; one shard is in memory at a time."""

    def __init__(
        self,
        shards: Sequence[tuple[int, Callable[[], LatentBatch]]],
        *,
        batch_rows: int,
        seed: int,
    ) -> None:
        """Plan batches of `batch_rows` rows.

        Args:
            shards: Number of rows and reader of each shard, a random part of all rows; a shard is
                visited in proportion to its rows.
            batch_rows: Latents in a batch.
            seed: Seed of the draws.
        """
        rows = np.array([count for count, _ in shards], dtype=np.float64)
        self.shards = [read for _, read in shards]
        self._shares = rows / rows.sum()
        self.batch_rows = batch_rows
        self.seed = seed
        self._loaded = -1
        self._latents = LatentBatch(torch.empty(0), torch.empty(0))

    # Consecutive steps share a shard, so that it is read once for many steps.
    STEPS_PER_SHARD = 64

    def batch(self, step: int) -> Tensor:
        """Posterior samples of training step `step`, shape [B, D]."""
        turn = numpy_generator(self.seed, "latent-shard", step // self.STEPS_PER_SHARD)
        shard = int(turn.choice(len(self.shards), p=self._shares))
        if shard != self._loaded:
            self._latents, self._loaded = self.shards[shard](), shard
        generator = torch.Generator().manual_seed(seed_of(self.seed, "latents", step))
        count = self._latents.mean.shape[0]
        rows = torch.randint(count, (self.batch_rows,), generator=generator)
        chosen = LatentBatch(self._latents.mean[rows], self._latents.std[rows])
        return chosen.sample(torch.randn(chosen.mean.shape, generator=generator))


def train_latent_diffusion(
    diffusion: LatentDiffusion,
    batches: LatentBatches,
    valid: LatentBatch | None,
    recipe: DiffusionRecipe,
    options: LoopOptions,
    *,
    seed: int,
    checkpoint: str | None = None,
    worker: Worker = ALONE,
) -> dict[str, float]:
    """Train `diffusion` in place and leave it with its last averaged weights.

    Args:
        diffusion: The model; its scaler is set already.
        batches: Scaled training latents.
        valid: Scaled validation posteriors; None: keep the last weights.
        recipe: How to train.
        options: Averaging, evaluation, checkpoints.
        seed: Seed of the run.
        checkpoint: File to continue from and to write.
        worker: Place in the group, and where the run is reported.

    Returns:
        `loss`: last validation loss on fixed noise, when there is validation.
    """
    collective.require_shares(recipe.batch_rows, worker)
    network = diffusion.network
    device = diffusion.mean.device
    decay_steps = round(recipe.num_steps * DECAY_SHARE)
    engine = build_engine(
        network, OptimizerOptions(recipe.lr, clip_norm=recipe.clip_norm), worker=worker
    )
    loop = TrainingLoop(
        engine,
        [
            Phase("stable", recipe.num_steps - decay_steps),
            Phase("decay", decay_steps, decays=True),
        ],
        options,
        seed=seed,
        checkpoint=checkpoint,
        worker=worker,
    )

    def loss_on(z_BD: Tensor, seed_of_noise: int, rows: slice = slice(None)) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of_noise)
        levels_B = torch.randn(z_BD.shape[0], generator=generator)
        noise_BD = torch.randn(z_BD.shape, generator=generator)
        sigma_B = training_sigma(levels_B, recipe.log_sigma_mean, recipe.log_sigma_std)
        batch = (z_BD[rows], sigma_B[rows], noise_BD[rows])
        return denoising_loss(network, *(values.to(device) for values in batch))

    def loss_of_step(step: int, phase: str) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        z_BD = batches.batch(step)
        rows = collective.share_of(len(z_BD), worker)
        weight = (rows.stop - rows.start) / len(z_BD)
        yield loss_on(z_BD, seed_of(seed, "noise", step), rows) * weight, {}

    def evaluate(phase: str) -> tuple[float | None, dict[str, float]]:
        if valid is None:
            return None, {}
        losses: list[Tensor] = []
        for draw in range(VALIDATION_DRAWS):  # one level per latent is noisy: average a few
            generator = torch.Generator().manual_seed(seed_of(seed, "valid-latents", draw))
            z_ND = valid.sample(torch.randn(valid.mean.shape, generator=generator))
            losses.append(loss_on(z_ND, seed_of(seed, "valid-noise", draw)))
        loss = float(torch.stack(losses).mean())
        return loss, {"valid_loss": loss}

    state = loop.run(
        loss_of_step,
        evaluate,
        description="Training the latent diffusion",
        contents={"rows": recipe.batch_rows},
    )
    losses = [entry["valid_loss"] for entry in state.history if "valid_loss" in entry]
    return {"loss": losses[-1]} if losses else {}
