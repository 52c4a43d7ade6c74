"""Even uniforms: each is uniform, together they cover the unit interval."""

import torch

from difflm_core.generation.decode import even_uniforms


def numbers(batch, seed, position=None):
    position = torch.arange(float(batch)) if position is None else position
    return even_uniforms(position, torch.Generator().manual_seed(seed))


def test_they_cover_the_unit_interval_far_better_than_independent_numbers():
    drawn = numbers(1024, seed=0).sort().values
    even = (torch.arange(1024) + 0.5) / 1024
    assert float((drawn - even).abs().max()) < 2 / 1024
    independent = torch.rand(1024, generator=torch.Generator().manual_seed(0)).sort().values
    assert float((independent - even).abs().max()) > 10 / 1024


def test_any_stretch_of_neighbours_is_covered():
    position = torch.randn(1024, generator=torch.Generator().manual_seed(3))
    drawn = numbers(1024, seed=1, position=position)[position.argsort()]
    for begin in range(0, 1024, 64):
        counts = torch.histc(drawn[begin : begin + 64], bins=8, min=0, max=1)
        assert float((counts - 8).abs().max()) <= 2


def test_one_row_alone_is_uniform():
    drawn = torch.cat([numbers(1, seed) for seed in range(2000)])
    counts = torch.histc(drawn, bins=10, min=0, max=1)
    assert float((counts - 200).abs().max()) < 60  # four standard deviations
    third = torch.stack([numbers(7, seed)[3] for seed in range(2000)])
    assert abs(float(third.mean()) - 0.5) < 0.03
    assert abs(float(third.var()) - 1 / 12) < 0.01


def test_they_are_below_one_and_follow_the_generator():
    assert float(numbers(10_000, seed=5).max()) < 1
    assert torch.equal(numbers(64, seed=5), numbers(64, seed=5))
    assert not torch.equal(numbers(64, seed=5), numbers(64, seed=6))
