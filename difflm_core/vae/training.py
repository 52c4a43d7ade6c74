"""Training of the text-VAE in two phases.

First the language model alone learns to write records, until validation stops improving; then
encoder and injection join it, with zero effect at first, and all train together while the learning
rate falls to zero. One phase for everything leaves both the language model and the latents worse.

Shape legend: B batch, N rows, T slots, D latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from difflm_core import collective
from difflm_core.engines import WHOLE, Engine, OptimizerOptions, Sharding, build_engine
from difflm_core.latents import ACTIVE_VARIANCE
from difflm_core.parallel import ALONE, Worker
from difflm_core.seeds import seed_of
from difflm_core.training import LoopOptions, LoopState, Phase, TrainingLoop
from difflm_core.vae.batches import Batches
from difflm_core.vae.model import Rows, TextVae
from difflm_core.vae.objective import BetaSchedule, free_bits, gaussian_kl

LANGUAGE, JOINT = "language model", "joint"
# What has no gradient while the language model learns alone.
OF_THE_LATENT = ("encoder.", "decoder.injector.hidden.", "decoder.injector.output.")


@dataclass(frozen=True)
class VaeRecipe:
    """How a text-VAE is trained.

    Attributes:
        max_tokens: Most tokens read in training.
        language_share: Share of the steps that train the language model alone.
        use_latents: Whether encoder and latent join in the second phase; else the language model
            goes on alone.
        muon: Whether Muon trains the hidden matrices; else AdamW does.
        lr: Learning rate of AdamW.
        matrix_lr: Learning rate of Muon.
        weight_decay: Weight decay of both.
        clip_norm: Largest norm of the gradient.
        beta: Weight of the KL divergence, and how it moves.
        free_nats: KL of each latent dimension that costs nothing, in nats.
        latent_noise: Standard deviation of noise added to the decoder's latent in training.
        pretrained_lr: Learning rate of AdamW for what does not start at random.
    """

    max_tokens: int
    language_share: float
    use_latents: bool
    muon: bool
    lr: float
    matrix_lr: float
    weight_decay: float
    clip_norm: float
    beta: BetaSchedule
    free_nats: float
    latent_noise: float = 0.0
    pretrained_lr: float = 0.0


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
    left = OF_THE_LATENT if second == LANGUAGE else ()
    return [
        Phase(LANGUAGE, language, untrained=OF_THE_LATENT),
        Phase(second, share=share, decays=True, untrained=left),
    ]


def train_text_vae(
    vae: TextVae,
    batches: Batches,
    valid: Rows,
    recipe: VaeRecipe,
    options: LoopOptions,
    *,
    seed: int,
    sharding: Sharding = WHOLE,
    num_parts: int = 1,
    checkpoint: str | None = None,
    worker: Worker = ALONE,
) -> tuple[VaeReport, Engine]:
    """Train `vae` in place and leave it with its last averaged weights.

    Args:
        vae: The model.
        batches: Training batches; a worker takes its share of each.
        valid: Validation records; training goes to its end if there are none.
        recipe: How to train.
        options: Averaging, evaluation, checkpoints.
        seed: Seed of the run.
        sharding: What the workers share out.
        num_parts: Parts of a worker's share that are computed one after the other, to save memory.
            Free bits then look at the KL of a part, over all workers, instead of the whole batch.
        checkpoint: File to continue from and to write.
        worker: Place in the group, and where the run is reported.

    Returns:
        What validation says, and the engine that holds the trained weights.
    """
    collective.require_shares(batches.smallest, worker, num_parts)
    device = next(vae.parameters()).device
    rows = min(batches.batch_rows, batches.num_rows)
    phases = plan_phases(recipe, round(rows * batches.tokens_per_row))
    engine = build_engine(vae, _optimizer_options(vae, recipe), sharding, worker, num_parts)
    loop = TrainingLoop(engine, phases, options, seed=seed, checkpoint=checkpoint, worker=worker)

    def loss_of_step(step: int, phase: str) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        batch = batches.batch(step)
        rows = len(batch)
        shape = (2, rows, vae.latent_dim)
        noise_2BD = (
            torch.empty(shape) if phase == LANGUAGE else _normal(seed_of(seed, "vae", step), shape)
        )
        share = collective.share_of(rows, worker)
        records, noises = batch[share], noise_2BD[:, share]
        for part, (noise_BD, latent_noise_BD) in zip(
            records.tensor_split(num_parts), noises.tensor_split(num_parts, dim=1), strict=True
        ):
            weight = len(part) / rows
            part = part.to(device)
            if phase == LANGUAGE:
                nll_B, _, _ = engine(part, None)
                yield nll_B.mean() * weight, {}
                continue
            nll_B, mean_BD, logvar_BD = engine(
                part,
                noise_BD.to(device),
                recipe.latent_noise * latent_noise_BD.to(device) if recipe.latent_noise else None,
            )
            kl_BD = gaussian_kl(mean_BD, logvar_BD)
            counted = free_bits(kl_BD, recipe.free_nats, _mean_over_workers(kl_BD, worker))
            beta = recipe.beta.value(loop.state.history)
            yield (
                (nll_B.mean() + beta * counted) * weight,
                {"kl": kl_BD.sum(dim=1).mean() * weight},
            )

    def validate(free_nats: float = 0.0) -> dict[str, float]:
        dim = vae.latent_dim
        return measure(engine, valid, latent_dim=dim, seed=seed, free_nats=free_nats, worker=worker)

    def evaluate(phase: str) -> tuple[float | None, dict[str, float]]:
        if not len(valid):
            return None, {}
        if phase == LANGUAGE:
            score = score_language_model(engine, valid, worker)
            return score, {"language_model": score}
        metrics = validate(recipe.free_nats)
        # The objective itself: information that costs nothing does not count against the score.
        counted = recipe.beta.value(loop.state.history) * metrics["counted_kl"]
        return metrics["reconstruction"] + counted, metrics

    rows = batches.mean_rows
    state = loop.run(
        loss_of_step,
        evaluate,
        description="Training the text-VAE",
        contents={"rows": rows, "tokens": rows * batches.tokens_per_row},
    )
    return _report(state, validate() if len(valid) else {}), engine


def _mean_over_workers(kl_BD: Tensor, worker: Worker) -> Tensor | None:
    """Mean KL of each dimension over the rows that all workers look at now, shape [D]."""
    if worker.world_size == 1:
        return None
    total_D = kl_BD.detach().sum(dim=0)
    rows = total_D.new_tensor([len(kl_BD)])
    collective.sum_in_place([total_D, rows], worker)
    return total_D / rows


def _optimizer_options(vae: TextVae, recipe: VaeRecipe) -> OptimizerOptions:
    return OptimizerOptions(
        lr=recipe.lr,
        matrix_lr=recipe.matrix_lr,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
        matrices=hidden_matrices(vae) if recipe.muon else frozenset(),
        late=OF_THE_LATENT,
        pretrained=vae.pretrained_parameters(),
        pretrained_lr=recipe.pretrained_lr,
    )


def hidden_matrices(vae: TextVae) -> frozenset[str]:
    """Names of the matrices inside the transformers' blocks, which Muon trains."""
    inside = {id(p) for block in vae.matrix_blocks() for p in block.parameters() if p.ndim == 2}
    return frozenset(
        name for name, p in vae.named_parameters() if id(p) in inside and p.requires_grad
    )


@torch.no_grad()
def score_language_model(engine: Engine, valid: Rows, worker: Worker = ALONE) -> float:
    """Negative log-likelihood without a latent, in nats per record."""
    device = next(engine.module.parameters()).device
    total = torch.zeros(1, dtype=torch.float64)
    for rows in _evaluation_shares(len(valid), _rows_at_once(engine), worker):
        nll_B, _, _ = engine(valid[rows].to(device), None)
        total += nll_B.double().sum().cpu()
    collective.sum_in_place([total], worker)
    return float(total) / len(valid)


@torch.no_grad()
def measure(
    engine: Engine,
    valid: Rows,
    *,
    latent_dim: int,
    seed: int,
    free_nats: float = 0.0,
    worker: Worker = ALONE,
) -> dict[str, float]:
    """Reconstruction, KL (nats per record) and active dimensions on fixed noise.

    `counted_kl` is the KL that the objective counts: at least `free_nats` in each dimension.
    """
    device = next(engine.module.parameters()).device
    noise_ND = _normal(seed_of(seed, "valid"), (len(valid), latent_dim))
    nll = torch.zeros(1, dtype=torch.float64)
    kl_D, mean_D, square_D = (torch.zeros(latent_dim, dtype=torch.float64) for _ in range(3))
    for rows in _evaluation_shares(len(valid), _rows_at_once(engine), worker):
        nll_B, mean_BD, logvar_BD = engine(valid[rows].to(device), noise_ND[rows].to(device))
        nll += nll_B.double().sum().cpu()
        kl_D += gaussian_kl(mean_BD, logvar_BD).double().sum(dim=0).cpu()
        mean_D += mean_BD.double().sum(dim=0).cpu()
        square_D += mean_BD.double().square().sum(dim=0).cpu()
    collective.sum_in_place([nll, kl_D, mean_D, square_D], worker)
    num_rows = len(valid)
    kl_D, mean_D, square_D = kl_D / num_rows, mean_D / num_rows, square_D / num_rows
    return {
        "reconstruction": float(nll) / num_rows,
        "kl": float(kl_D.sum()),
        "counted_kl": float(free_bits(kl_D[None], free_nats)),
        "active_dims": int((square_D - mean_D.square() > ACTIVE_VARIANCE).sum()),
    }


def _rows_at_once(engine: Engine) -> int:
    return cast("TextVae", engine.module).rows_at_once


def _evaluation_shares(num_rows: int, rows_at_once: int, worker: Worker) -> Iterator[slice]:
    """Rows of each call of a worker; as many calls as any other's, which shared weights need."""
    at_once = rows_at_once * worker.world_size
    for first in range(0, num_rows, at_once):
        size = min(at_once, num_rows - first)
        share = collective.share_of(size, worker)
        yield slice(first + share.start, first + share.stop)


def _report(state: LoopState, metrics: Mapping[str, float]) -> VaeReport:
    language = [e["language_model"] for e in state.history if "language_model" in e]
    return VaeReport(
        reconstruction=metrics.get("reconstruction"),
        kl=metrics.get("kl"),
        active_dims=None if not metrics else int(metrics["active_dims"]),
        language_model=min(language, default=None),
        num_steps=state.step,
    )


def _normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
