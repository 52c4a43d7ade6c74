"""Heun's method against the exact solution for Gaussian data."""

import math
from itertools import pairwise

import pytest
import torch

from difflm_core.diffusion.model import DenoiserSize, LatentDiffusion, SamplerOptions
from difflm_core.diffusion.noise import sampling_schedule
from difflm_core.diffusion.precondition import denoise
from difflm_core.diffusion.sampler import heun_sample
from difflm_core.latents import LatentScaler
from tests.unit.diffusion.exact import gaussian_network

LOW, HIGH = 0.002, 20.0


def noise(rows=4, dim=3):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("std", [0.3, 0.5, 2.0])
def test_the_global_error_is_of_second_order(std):
    network = gaussian_network(std)
    # The ODE's solution is x(sigma) = c * sqrt(std**2 + sigma**2), from x = noise * sqrt(1 +
    # sigma**2). The last step, to zero, is Euler's however many there are, so its own factor
    # belongs to the reference: y(0) = y + t * F(y).
    start = math.sqrt((std**2 + LOW**2) / (std**2 + HIGH**2))
    y = noise() * start * math.sqrt(1 + HIGH**2) / math.sqrt(1 + LOW**2)
    label = torch.tensor([math.log(LOW) / 4], dtype=torch.float64)
    exact = y + math.atan(LOW) * network(y, label)
    errors = [
        float((heun_sample(network, noise(), sampling_schedule(n, LOW, HIGH)) - exact).abs().max())
        for n in (32, 64, 128, 256)
    ]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([2.0] * 3, abs=0.15)
    assert errors[-1] < 3e-4


def test_the_velocity_is_the_ode_of_karras_in_other_coordinates():
    """One tiny step is that of dx/dsigma = (x - D) / sigma, whatever the network."""

    def network(x, label):
        return torch.sin(3 * x) + label[:, None]

    sigma, following = 0.8, 0.8 - 1e-5
    y = noise()
    x = y * math.sqrt(1 + sigma**2)
    level = torch.full((4,), sigma, dtype=torch.float64)
    expected = x + (following - sigma) * (x - denoise(network, x, level)) / sigma
    schedule = torch.tensor([sigma, following], dtype=torch.float64)
    found = heun_sample(network, y, schedule) * math.sqrt(1 + following**2)
    torch.testing.assert_close(found - x, expected - x, rtol=1e-4, atol=1e-9)


def test_standard_normal_data_is_sampled_exactly_in_any_number_of_steps():
    for num_steps in (2, 5):
        samples = heun_sample(gaussian_network(1.0), noise(), sampling_schedule(num_steps))
        torch.testing.assert_close(samples, noise())


@pytest.mark.parametrize("std", [0.3, 0.7])
def test_few_steps_keep_the_spread_of_the_data(std):
    """Latents are scaled per dimension, so some directions vary less than others."""
    samples = heun_sample(gaussian_network(std), noise(50_000, 2), sampling_schedule(8))
    assert float(samples.std()) == pytest.approx(std, rel=0.025)
    assert float(samples.mean()) == pytest.approx(0.0, abs=0.01)


def test_a_batch_is_sampled_like_its_rows():
    network, schedule = gaussian_network(0.7), sampling_schedule(6, LOW, HIGH)
    whole = heun_sample(network, noise(), schedule)
    rows = [heun_sample(network, noise()[row : row + 1], schedule) for row in range(4)]
    torch.testing.assert_close(whole, torch.cat(rows), rtol=0, atol=0)


def test_the_model_samples_on_the_scale_of_its_latents():
    diffusion = LatentDiffusion(DenoiserSize(latent_dim=3, width=16, num_blocks=1))
    z = noise().float()
    torch.testing.assert_close(diffusion.sample(z, SamplerOptions(num_steps=4)), z)
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 1.0, 10.0])
    diffusion.scaler = LatentScaler(mean, std)
    # An untrained network is zero: it samples the standard normal, scaled.
    torch.testing.assert_close(diffusion.sample(z, SamplerOptions(num_steps=4)), z * std + mean)
