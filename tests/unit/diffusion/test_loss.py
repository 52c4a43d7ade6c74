"""Preconditioning and loss: analytic values for Gaussian data."""

import pytest
import torch

from difflm_core.diffusion.denoiser import ResidualMLP
from difflm_core.diffusion.loss import denoising_loss
from difflm_core.diffusion.precondition import denoise, loss_weight
from tests.unit.diffusion.exact import gaussian_network

N = 200_000


def draw(std, sigma):
    generator = torch.Generator().manual_seed(2)
    z = std * torch.randn(N, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    return z, torch.full((N,), sigma, dtype=torch.float64), noise


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("std", [0.5, 1.0])
def test_the_exact_denoiser_attains_the_analytic_minimum(std, sigma):
    z, level, noise = draw(std, sigma)
    # Posterior variance std^2 sigma^2 / (std^2 + sigma^2), times weight (1 + sigma^2) / sigma^2.
    analytic = std**2 * (1 + sigma**2) / (std**2 + sigma**2)
    network = gaussian_network(std)
    minimum = float(denoising_loss(network, z, level, noise))
    assert minimum == pytest.approx(analytic, rel=0.01)
    for factor in (0.9, 1.1):  # and no denoiser around it does better

        def other(x, label, factor=factor):
            return factor * network(x, label) + 0.05

        assert float(denoising_loss(other, z, level, noise)) > minimum


def test_the_loss_is_near_one_before_training():
    generator = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(50_000, 3, generator=generator) for _ in range(2))
    sigma = torch.exp(torch.randn(50_000, generator=generator))
    with torch.no_grad():
        loss = denoising_loss(ResidualMLP(3, width=16, num_blocks=1), z, sigma, noise)
    assert float(loss) == pytest.approx(1.0, abs=0.02)


def test_the_weight_makes_the_networks_error_count_alike_at_every_level():
    """With weight 1 / c_out^2, a network off by e costs e^2 whatever the noise."""
    x = torch.randn(6, 4, dtype=torch.float64)
    sigma = torch.logspace(-2, 2, 6, dtype=torch.float64)
    shift = denoise(lambda y, _: y + 0.3, x, sigma) - denoise(lambda y, _: y, x, sigma)
    cost = loss_weight(sigma)[:, None] * shift.square()
    torch.testing.assert_close(cost, torch.full_like(cost, 0.09))


def test_the_denoiser_is_the_identity_without_noise_and_zero_in_noise():
    network = ResidualMLP(4, width=16, num_blocks=2)
    torch.nn.init.normal_(network.output.weight)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    near = denoise(network, x, torch.full((5,), 1e-6))
    torch.testing.assert_close(near, x, rtol=0, atol=1e-4)
    zero = denoise(ResidualMLP(4, width=16), 1e4 * x, torch.full((5,), 1e4))
    assert float(zero.detach().abs().max()) < 1e-3


def test_the_network_sees_unit_variance_at_every_level():
    for sigma in (0.01, 1.0, 50.0):
        z, level, noise = draw(1.0, sigma)
        seen = []
        denoise(lambda x, _, seen=seen: seen.append(x) or x, z + sigma * noise, level)
        assert float(seen[0].std()) == pytest.approx(1.0, rel=0.01)


def test_the_network_reacts_to_the_noise_level_and_batches_like_single_rows():
    network = ResidualMLP(3, width=32, num_blocks=2).double()
    torch.nn.init.normal_(network.output.weight)
    x = torch.randn(4, 3, dtype=torch.float64)
    label = torch.tensor([-1.0, -0.5, 0.0, 0.5], dtype=torch.float64)
    out = network(x, label)
    singles = torch.cat([network(x[i : i + 1], label[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(out, singles)
    assert not torch.allclose(out, network(x, label + 0.3), atol=1e-3)
    # One level for all rows is the same as repeating it.
    torch.testing.assert_close(network(x, label[:1]), network(x, label[:1].expand(4)))
