import pytest
import torch

from difflm_core.generation.generator import even_normals


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_a_batch_is_nearly_exactly_standard_normal():
    noise = even_normals(1024, 16, seeded(0))
    assert noise.shape == (1024, 16)
    assert noise.dtype is torch.float32
    # Independent rows are off by 1 / sqrt(1024) = 0.03 in the mean, ten times as much.
    assert float(noise.mean(dim=0).abs().max()) < 0.003
    assert float((noise.std(dim=0) - 1).abs().max()) < 0.01
    assert float((noise.T @ noise / 1024 - torch.eye(16)).abs().max()) < 0.06


def test_each_row_alone_is_standard_normal_and_independent_of_other_batches():
    firsts = torch.cat([even_normals(1, 2, seeded(seed)) for seed in range(4000)])
    assert float(firsts.mean(dim=0).abs().max()) < 0.06
    assert float((firsts.std(dim=0) - 1).abs().max()) < 0.05
    assert abs(float(torch.corrcoef(firsts.T)[0, 1])) < 0.06


@pytest.mark.parametrize("count", [1, 1000, 1025])
def test_the_noise_depends_on_the_seed_alone(count):
    noise = even_normals(count, 3, seeded(5))
    assert bool(torch.isfinite(noise).all())
    torch.manual_seed(1)
    assert torch.equal(noise, even_normals(count, 3, seeded(5)))
    assert not torch.equal(noise, even_normals(count, 3, seeded(6)))
