"""Deterministic sampling: Heun's second-order method on the probability-flow ODE.

Source: Karras et al. 2022 (arXiv 2206.00364), Algorithm 1.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from difflm_core.diffusion.precondition import Network, denoise


def heun_sample(network: Network, noise_BD: Tensor, schedule: Tensor) -> Tensor:
    """Turn noise into latents.

    Args:
        network: Raw network.
        noise_BD: Standard normal noise; it alone decides the sample.
        schedule: Noise levels from the highest to zero, shape [S + 1].

    Returns:
        Latents of unit variance, shape [B, D].
    """
    levels: list[float] = schedule.tolist()
    x_BD = noise_BD * levels[0]
    for sigma, following in pairwise(levels):
        slope = _slope(network, x_BD, sigma)
        ahead = x_BD + (following - sigma) * slope
        if following > 0:
            slope = (slope + _slope(network, ahead, following)) / 2
            ahead = x_BD + (following - sigma) * slope
        x_BD = ahead
    return x_BD


def _slope(network: Network, x_BD: Tensor, sigma: float) -> Tensor:
    """Derivative dx/dsigma of the probability-flow ODE, eq. 3 with s(t) = 1, sigma(t) = t."""
    # One level for the whole batch: the network embeds it once and broadcasts.
    level = torch.full((1,), sigma, dtype=x_BD.dtype, device=x_BD.device)
    return (x_BD - denoise(network, x_BD, level)) / sigma
