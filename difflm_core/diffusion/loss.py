"""The denoising loss. Source: Karras et al. 2022 (arXiv 2206.00364), eq. 2 and 108."""

from __future__ import annotations

from torch import Tensor

from difflm_core.diffusion.precondition import Network, denoise, loss_weight


def denoising_loss(network: Network, z_BD: Tensor, sigma_B: Tensor, noise_BD: Tensor) -> Tensor:
    """Weighted squared error of denoising z + sigma * noise, a scalar near 1 before training.

    Args:
        network: Raw network.
        z_BD: Clean latents, unit variance.
        sigma_B: Noise level of each.
        noise_BD: Standard normal noise.
    """
    estimate_BD = denoise(network, z_BD + sigma_B[:, None] * noise_BD, sigma_B)
    return (loss_weight(sigma_B)[:, None] * (estimate_BD - z_BD).square()).mean()
