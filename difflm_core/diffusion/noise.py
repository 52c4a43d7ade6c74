"""Noise levels: those seen in training and those visited in sampling.

Source: Karras et al. 2022 (arXiv 2206.00364).
"""

from __future__ import annotations

import math

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


def sampling_schedule(
    num_steps: int, sigma_min: float = 0.02, sigma_max: float = 20.0, power: float = 2.0
) -> Tensor:
    """Noise levels of the sampler, from `sigma_max` down to `sigma_min`, then 0.

    The angles arctan(sigma), in which the sampler moves, are spaced evenly in their `power`-th
    root, like the levels of Karras et al. (eq. 5): steps shorten towards the data.

    Returns:
        Shape [num_steps + 1], float64.

    Raises:
        ValueError: fewer than two steps.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}, expected at least 2")
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    low, high = math.atan(sigma_min) ** (1 / power), math.atan(sigma_max) ** (1 / power)
    angles = (high + ramp * (low - high)) ** power
    return torch.cat([angles.tan(), torch.zeros(1, dtype=torch.float64)])
