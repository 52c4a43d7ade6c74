"""EDM preconditioning.

Source: Karras et al. 2022 (arXiv 2206.00364), section 5, Table 1, column "Ours". Latents are
scaled to unit variance before, so sigma_data = 1 unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

# Raw network F(scaled latent [B, D], noise label [B]) -> [B, D].
Network = Callable[[Tensor, Tensor], Tensor]


def denoise(network: Network, x_BD: Tensor, sigma_B: Tensor, sigma_data: float = 1.0) -> Tensor:
    """Preconditioned denoiser D(x; sigma), eq. 7: an estimate of the clean latent, shape [B, D].

    Args:
        network: Raw network.
        x_BD: Noisy latents.
        sigma_B: Noise level of each, or of all of them (shape [1]).
        sigma_data: Standard deviation of the clean latents.
    """
    sigma = sigma_B[:, None]
    total = sigma.square() + sigma_data**2
    c_skip = sigma_data**2 / total
    c_out = sigma * sigma_data * total.rsqrt()
    c_in = total.rsqrt()
    c_noise = sigma_B.log() / 4
    return c_skip * x_BD + c_out * network(c_in * x_BD, c_noise)


def loss_weight(sigma_B: Tensor, sigma_data: float = 1.0) -> Tensor:
    """Weight lambda(sigma) = 1 / c_out**2 that makes every noise level count alike, shape [B]."""
    return (sigma_B.square() + sigma_data**2) / (sigma_B * sigma_data).square()
