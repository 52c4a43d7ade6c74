"""The VAE's objective: reconstruction, KL divergence, and how they are weighed.

Source: DiffLM (arXiv 2411.03250), section 3.2 (decreasing beta); Kingma et al. 2016 (free bits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def sample_posterior(mean_BD: Tensor, logvar_BD: Tensor, noise_BD: Tensor) -> Tensor:
    """Reparameterised sample mean + sigma * noise (Kingma and Welling 2014), shape [B, D]."""
    return mean_BD + torch.exp(0.5 * logvar_BD) * noise_BD


def gaussian_kl(mean_BD: Tensor, logvar_BD: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each dimension in nats, shape [B, D]."""
    return 0.5 * (mean_BD.pow(2) + logvar_BD.exp() - 1.0 - logvar_BD)


def free_bits(kl_BD: Tensor, nats_per_dim: float, batch_mean_D: Tensor | None = None) -> Tensor:
    """KL that counts only above `nats_per_dim` in each dimension's batch mean; a scalar.

    Args:
        kl_BD: KL of each row and dimension.
        nats_per_dim: What costs nothing.
        batch_mean_D: Mean over the whole batch, when the rows are a part of it.
    """
    mean_D = kl_BD.mean(dim=0)
    judged_D = mean_D.detach() if batch_mean_D is None else batch_mean_D
    return torch.where(judged_D > nats_per_dim, mean_D, nats_per_dim).sum()


@dataclass(frozen=True)
class BetaSchedule:
    """Weight of the KL divergence over a run.

    The paper's schedule starts high and is multiplied down whenever the validation
    reconstruction has stopped improving. It is a function of the evaluations so far, so a run
    that continues from a checkpoint finds the same value.

    Attributes:
        start: Value at the beginning; the only one if `decay` is 1.
        end: Lowest value.
        decay: Factor of each decrease.
        patience: Evaluations without improvement before a decrease.
        tolerance: Smallest improvement that counts, in nats.
    """

    start: float
    end: float = 0.0
    decay: float = 1.0
    patience: int = 2
    tolerance: float = 0.01

    def value(self, history: Sequence[Mapping[str, float]]) -> float:
        """Weight after the evaluations in `history` (those without reconstruction are skipped)."""
        beta, best, waited = self.start, math.inf, 0
        if self.decay == 1.0:
            return beta
        for entry in history:
            if "reconstruction" not in entry:
                continue
            if entry["reconstruction"] < best - self.tolerance:
                best, waited = entry["reconstruction"], 0
                continue
            waited += 1
            if waited >= self.patience:
                beta, waited = max(self.end, beta * self.decay), 0
        return beta
