"""Noise levels of training and sampling."""

import math

import pytest
import torch

from difflm_core.diffusion.noise import sampling_schedule, training_sigma


@pytest.mark.parametrize("num_steps", [2, 3, 18])
def test_the_schedule_runs_from_sigma_max_to_sigma_min_to_zero(num_steps):
    levels = sampling_schedule(num_steps, sigma_min=0.01, sigma_max=50.0)
    assert levels.shape == (num_steps + 1,)
    assert levels.dtype == torch.float64
    assert float(levels[0]) == pytest.approx(50.0, rel=1e-12)
    assert float(levels[-2]) == pytest.approx(0.01, rel=1e-10)
    assert float(levels[-1]) == 0.0
    assert (levels.diff() < 0).all()


def test_the_schedule_is_even_in_the_root_of_the_angle():
    root = sampling_schedule(10, 0.002, 80.0, power=3.0)[:-1].atan() ** (1 / 3.0)
    torch.testing.assert_close(root.diff(), root.diff()[:1].expand(9))


def test_one_step_is_refused():
    with pytest.raises(ValueError, match="num_steps is 1"):
        sampling_schedule(1)


def test_training_levels_are_log_normal():
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    log_sigma = training_sigma(normal, -0.4, 1.5).log()
    assert float(log_sigma.mean()) == pytest.approx(-0.4, abs=0.02)
    assert float(log_sigma.std()) == pytest.approx(1.5, abs=0.02)
    one = training_sigma(torch.tensor([1.0]), -1.2, 1.2)
    assert float(one) == pytest.approx(math.exp(0.0), rel=1e-6)
