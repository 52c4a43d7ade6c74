"""Latents: scaling, Arrow form, activity."""

import pytest
import torch

from difflm_core.latents import LatentBatch, LatentScaler, active_dimensions


def posteriors(count, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(count, dim, generator=generator) * torch.tensor([0.1, 1.0, 30.0]) + 5
    std = torch.rand(count, dim, generator=generator) + 0.1
    return LatentBatch(mean, std)


def test_the_scalers_moments_are_those_of_the_aggregate_posterior():
    batches = [posteriors(n, seed=n) for n in (1, 7, 500)]
    scaler = LatentScaler.fit(batches)
    mean = torch.cat([b.mean for b in batches]).double()
    std = torch.cat([b.std for b in batches]).double()
    torch.testing.assert_close(scaler.mean, mean.mean(dim=0).float())
    variance = mean.var(dim=0, correction=0) + std.square().mean(dim=0)
    torch.testing.assert_close(scaler.std, variance.sqrt().float())
    # And by brute force, from samples.
    noise = torch.randn(2000, *mean.shape, generator=torch.Generator().manual_seed(1))
    samples = (mean + std * noise).flatten(0, 1)
    torch.testing.assert_close(scaler.mean.double(), samples.mean(dim=0), rtol=0.01, atol=0.01)
    torch.testing.assert_close(scaler.std.double(), samples.std(dim=0), rtol=0.01, atol=0)


def test_scaled_latents_have_unit_variance_and_come_back():
    batch = posteriors(1000)
    scaler = LatentScaler.fit([batch])
    scaled = scaler.scale(batch)
    again = LatentScaler.fit([scaled])
    torch.testing.assert_close(again.mean, torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(again.std, torch.ones(3), rtol=1e-5, atol=0)
    noise = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scaler.unscale(scaled.sample(noise)), batch.sample(noise))


def test_a_constant_dimension_does_not_divide_by_zero():
    batch = LatentBatch(torch.ones(5, 1), torch.zeros(5, 1))
    scaler = LatentScaler.fit([batch])
    assert scaler.scale(batch).mean.isfinite().all()
    assert scaler.std.item() > 0


@pytest.mark.parametrize("count", [0, 1, 6])
def test_arrow_and_back_is_exact(count):
    batch = posteriors(count)
    table = batch.to_arrow()
    assert table.num_rows == count
    for again in (LatentBatch.from_arrow(table), LatentBatch.from_arrow(table.slice(0))):
        assert torch.equal(again.mean, batch.mean)
        assert torch.equal(again.std, batch.std)


def test_a_slice_of_the_arrow_form_is_a_slice_of_the_latents():
    batch = posteriors(6)
    again = LatentBatch.from_arrow(batch.to_arrow().slice(2, 3))
    assert torch.equal(again.mean, batch.mean[2:5])
    assert torch.equal(again.std, batch.std[2:5])


def test_only_dimensions_that_vary_are_active():
    means = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    assert active_dimensions(means * torch.tensor([1.0, 0.2, 0.05])) == 2
    assert active_dimensions(means * 0) == 0
