"""Calibration: the wanted marginal, at the smallest change."""

import numpy as np
import torch

from difflm_core.codec.grammar import Grammar, Slot
from difflm_core.generation.calibration import MIN_LIVE_ROWS, MarginalCalibration, fit_bias


def logits(rows, size, seed=0):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def test_the_mean_distribution_becomes_the_target():
    target = torch.tensor([0.6, 0.3, 0.1])
    rows = logits(2000, 3)
    before = torch.softmax(rows, dim=1).mean(dim=0)
    after = torch.softmax(rows + fit_bias(rows, target), dim=1).mean(dim=0)
    assert float((before - target).abs().max()) > 0.2
    torch.testing.assert_close(after, target, atol=1e-3, rtol=0)


def test_a_calibrated_slot_is_left_as_it_is():
    rows = logits(500, 4)
    target = torch.softmax(rows, dim=1).mean(dim=0)
    torch.testing.assert_close(fit_bias(rows, target), torch.zeros(4), atol=1e-5, rtol=0)


def test_what_depends_on_what_is_kept():
    rows = logits(500, 4)
    tilted = rows + fit_bias(rows, torch.tensor([0.4, 0.3, 0.2, 0.1]))
    # Log-odds between two rows do not change: the same bias is added to each.
    torch.testing.assert_close(tilted[0] - tilted[1], rows[0] - rows[1])


def test_only_slots_with_a_marginal_of_their_own_are_calibrated():
    text = [Slot(3, 6), Slot(3, 6, gate=(3, 5), idle=6)]
    grammar = Grammar([Slot(0, 3), *text, Slot(7, 8)], vocab_size=8)
    share = np.array([0.5, 0.25, 0.25, 0.3, 0.3, 0.4, 0.0, 1.0])
    calibration = MarginalCalibration(grammar, share)
    live = torch.ones(MIN_LIVE_ROWS, dtype=torch.bool)
    rows = logits(MIN_LIVE_ROWS, 3)
    assert not torch.equal(calibration(0, rows, live), rows)
    assert torch.equal(calibration(1, rows, live), rows)
    assert torch.equal(calibration(3, rows[:, :1], live), rows[:, :1])
    assert calibration.bias_V[:3].any()
    assert not calibration.bias_V[3:].any()


def test_a_slot_that_few_rows_reach_is_left_alone():
    grammar = Grammar([Slot(0, 3)], vocab_size=3)
    calibration = MarginalCalibration(grammar, np.array([0.8, 0.1, 0.1]))
    rows = logits(1000, 3)
    live = torch.arange(1000) < MIN_LIVE_ROWS - 1
    assert torch.equal(calibration(0, rows, live), rows)
    assert not calibration.bias_V.any()


def test_a_token_never_seen_in_training_all_but_disappears():
    target = torch.tensor([0.5, 0.5, 0.0])
    rows = logits(1000, 3)
    after = torch.softmax(rows + fit_bias(rows, target), dim=1).mean(dim=0)
    assert float(after[2]) < 0.05
