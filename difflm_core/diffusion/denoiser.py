"""The denoising network: a residual MLP over the latent.

Shape legend: B batch, D latent, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Angular frequencies of the noise label, which lies in about [-1.5, 1.1].
MIN_FREQUENCY, MAX_FREQUENCY = 0.5, 50.0
NUM_FREQUENCIES = 32


class ResidualBlock(nn.Module):
    """Pre-norm feed-forward block, shifted by the noise level."""

    def __init__(self, width: int) -> None:
        """Build a block of the given width."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.shift = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, hidden_BW: Tensor, noise_BW: Tensor) -> Tensor:
        """Add the block's correction to `hidden_BW`."""
        inside = self.norm(hidden_BW + self.shift(noise_BW))
        return hidden_BW + self.down(F.silu(self.up(inside)))


class ResidualMLP(nn.Module):
    """Raw network F of the preconditioned denoiser; it starts at zero output."""

    frequencies: Tensor

    def __init__(self, latent_dim: int, width: int = 256, num_blocks: int = 3) -> None:
        """Build the network for latents of `latent_dim` dimensions."""
        super().__init__()
        ramp = torch.linspace(math.log(MIN_FREQUENCY), math.log(MAX_FREQUENCY), NUM_FREQUENCIES)
        self.register_buffer("frequencies", ramp.exp(), persistent=False)
        self.noise = nn.Linear(2 * NUM_FREQUENCIES, width)
        self.input = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(num_blocks))
        self.output = nn.Linear(width, latent_dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x_BD: Tensor, label_B: Tensor) -> Tensor:
        """Network output, shape [B, D], for scaled latents and noise labels [B]."""
        angle = label_B[:, None] * self.frequencies
        noise_BW = F.silu(self.noise(torch.cat([angle.sin(), angle.cos()], dim=1)))
        hidden_BW = self.input(x_BD)
        for block in self.blocks:
            hidden_BW = block(hidden_BW, noise_BW)
        return self.output(hidden_BW)
