"""The trained diffusion: a denoiser with the scaler of its latents.

Shape legend: B batch, D latent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from difflm_core.diffusion.denoiser import ResidualMLP
from difflm_core.diffusion.noise import sampling_schedule
from difflm_core.diffusion.sampler import heun_sample
from difflm_core.latents import LatentScaler


@dataclass(frozen=True)
class DenoiserSize:
    """Size of the denoising network.

    Attributes:
        latent_dim: Dimensions of the latent.
        width: Width of the residual MLP.
        num_blocks: Residual blocks.
    """

    latent_dim: int
    width: int
    num_blocks: int


@dataclass(frozen=True)
class SamplerOptions:
    """How noise becomes latents.

    Attributes:
        num_steps: Heun steps; each but the last evaluates the network twice.
        sigma_min: Lowest noise level above zero.
        sigma_max: Highest noise level.
    """

    num_steps: int = 10
    sigma_min: float = 0.02
    sigma_max: float = 20.0


class LatentDiffusion(nn.Module):
    """Samples latents from noise."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: DenoiserSize) -> None:
        """Build an untrained diffusion with the identity scaler."""
        super().__init__()
        self.size = size
        self.network = ResidualMLP(size.latent_dim, size.width, size.num_blocks)
        self.register_buffer("mean", torch.zeros(size.latent_dim))
        self.register_buffer("std", torch.ones(size.latent_dim))

    @property
    def scaler(self) -> LatentScaler:
        """Scaler between the VAE's latents and the diffusion's."""
        return LatentScaler(self.mean, self.std)

    @scaler.setter
    def scaler(self, scaler: LatentScaler) -> None:
        self.mean.copy_(scaler.mean)
        self.std.copy_(scaler.std)

    @torch.inference_mode()
    def sample(self, noise_BD: Tensor, options: SamplerOptions) -> Tensor:
        """Latents on the VAE's scale, shape [B, D], from standard normal noise."""
        schedule = sampling_schedule(options.num_steps, options.sigma_min, options.sigma_max)
        return self.scaler.unscale(heun_sample(self.network, noise_BD, schedule))

    def describe(self) -> dict[str, Any]:
        """JSON form of the architecture."""
        return asdict(self.size)
