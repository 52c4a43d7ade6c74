"""Noise levels: those seen in training and those visited in sampling.

Source: Karras et al. 2022 (arXiv 2206.00364).
"""

from __future__ import annotations

import torch
from torch import Tensor


def training_sigma(normal_B: Tensor, log_mean: float = -1.2, log_std: float = 1.2) -> Tensor:
    """Log-normal noise levels exp(log_mean + log_std * normal), Table 1; shape [B].

    Args:
        normal_B: Standard normal draws.
        log_mean: Mean of log sigma; lower looks longer at fine structure.
        log_std: Standard deviation of log sigma.
    """
    return torch.exp(log_mean + log_std * normal_B)


def karras_schedule(
    num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """Noise levels of the sampler, eq. 5, from `sigma_max` down to `sigma_min`, then 0.

    Returns:
        Shape [num_steps + 1], float64.

    Raises:
        ValueError: fewer than two steps.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}, expected at least 2")
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])
