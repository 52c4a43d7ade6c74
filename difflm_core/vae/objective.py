"""The VAE's objective: reconstruction, KL divergence, and how they are weighed.

Source: DiffLM (arXiv 2411.03250), section 3.2 (decreasing beta); Kingma et al. 2016 (free bits).
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_posterior(mean_BD: Tensor, logvar_BD: Tensor, noise_BD: Tensor) -> Tensor:
    """Reparameterised sample mean + sigma * noise (Kingma and Welling 2014), shape [B, D]."""
    return mean_BD + torch.exp(0.5 * logvar_BD) * noise_BD


def gaussian_kl(mean_BD: Tensor, logvar_BD: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each dimension in nats, shape [B, D]."""
    return 0.5 * (mean_BD.pow(2) + logvar_BD.exp() - 1.0 - logvar_BD)


def free_bits(kl_BD: Tensor, nats_per_dim: float) -> Tensor:
    """KL that counts only above `nats_per_dim` in each dimension's batch mean; a scalar."""
    return kl_BD.mean(dim=0).clamp(min=nats_per_dim).sum()
