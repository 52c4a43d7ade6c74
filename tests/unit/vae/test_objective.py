"""The VAE's objective against closed forms."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from difflm_core.vae.objective import BetaSchedule, free_bits, gaussian_kl, sample_posterior


def posterior(batch=5, dim=3):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    logvar = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    return mean, logvar


def test_the_kl_is_that_of_gaussians():
    mean, logvar = posterior()
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, logvar), expected)
    assert gaussian_kl(torch.zeros(2, 2), torch.zeros(2, 2)).abs().max() == 0


def test_the_kl_is_the_expected_log_ratio():
    mean, logvar = torch.tensor([[0.7, -0.2]]).double(), torch.tensor([[-1.0, 0.5]]).double()
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(1)).double()
    z = sample_posterior(mean, logvar, noise)
    ratio = Normal(mean, (0.5 * logvar).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(gaussian_kl(mean, logvar)[0], ratio.mean(0), rtol=0.02, atol=0)


def test_posterior_samples_have_the_posteriors_moments():
    mean, logvar = torch.tensor([2.0, -1.0]), torch.tensor([0.0, math.log(9.0)])
    noise = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(2))
    z = sample_posterior(mean.expand(100_000, 2), logvar.expand(100_000, 2), noise)
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(z.std(0), torch.tensor([1.0, 3.0]), rtol=0.01, atol=0)


def test_free_bits_count_only_above_the_threshold_of_each_dimensions_mean():
    kl = torch.tensor([[0.0, 1.0, 2.0], [0.2, 3.0, 0.0]], requires_grad=True)
    total = free_bits(kl, 0.5)
    assert float(total.detach()) == pytest.approx(0.5 + 2.0 + 1.0)
    total.backward()
    # The dimension below the threshold is not pushed any further.
    torch.testing.assert_close(kl.grad, torch.tensor([[0.0, 0.5, 0.5]] * 2))
    assert float(free_bits(kl.detach(), 0.0)) == pytest.approx(float(kl.detach().mean(0).sum()))


def history(*values):
    return [{"step": 1.0}, *({"reconstruction": value} for value in values)]


def test_beta_is_constant_without_decay():
    assert BetaSchedule(0.7).value(history(5, 6, 7, 8)) == 0.7


def test_beta_falls_whenever_the_reconstruction_stops_improving():
    schedule = BetaSchedule(1.0, end=0.3, decay=0.5, patience=2, tolerance=0.1)
    assert schedule.value([]) == 1.0
    assert schedule.value(history(5.0, 4.0, 3.0)) == 1.0
    assert schedule.value(history(5.0, 5.0)) == 1.0
    assert schedule.value(history(5.0, 4.95, 5.0)) == 0.5  # too small an improvement
    assert schedule.value(history(5.0, 5.0, 4.0, 4.0)) == 1.0  # the wait starts again
    assert schedule.value(history(5.0, 5.0, 5.0, 5.0, 5.0)) == 0.3  # and no lower than the end
