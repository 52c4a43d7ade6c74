"""Calibration: a generated table has the marginals of the training table.

A decoder that has seen few rows is a little too sure of itself, and its errors add up along a
record: late columns drift. One pass over the slots corrects that. A batch is generated; at every
slot a bias on the logits is found for which the mean of the rows' distributions is the share of
each token in training; the slot is sampled with the bias, and the next one sees the corrected
rows. Tilting all rows by one bias per token is the smallest change, in KL divergence, that gives
the wanted marginal (Csiszár 1975, I-divergence geometry), so what depends on what is kept.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from difflm_core.codec.grammar import Grammar
from difflm_core.generation.decode import TokenDraw, decode_tokens
from difflm_core.generation.generator import LatentSource
from difflm_core.seeds import seed_of
from difflm_core.vae.model import RecordVae

# The rows' noise stays in the bias, so there are as many as a large table has. Batches keep the
# memory small, and their biases are averaged.
CALIBRATION_ROWS = 8192
NUM_BATCHES = 8
# A slot that fewer rows reach is left alone: its shares would be noise.
MIN_LIVE_ROWS = 256
NUM_ITERATIONS = 12
# Largest bias in nats; a token the decoder all but never gives stays rare.
MAX_BIAS = 3.0
# Shares below this are treated as this, so that rare tokens do not swing.
SMALLEST_SHARE = 1e-5


class MarginalCalibration:
    """Finds the bias of each slot while a batch is decoded; see `decode_tokens(adjust=...)`.

    Attributes:
        bias_V: Bias of every token, shape [V], filled slot by slot.
    """

    def __init__(self, grammar: Grammar, token_share: npt.NDArray[np.float64]) -> None:
        """Calibrate towards `token_share`: share of each token in its slot, shape [V]."""
        starts, counts = np.unique(grammar.start, return_counts=True)
        # Tokens of free text belong to many slots, whose marginals have no meaning.
        shared = set(starts[counts > 1].tolist())
        self.grammar = grammar
        self.targets: list[Tensor | None] = []
        for slot in grammar.slots:
            target = torch.from_numpy(token_share[slot.start : slot.stop]).float()
            usable = slot.start not in shared and slot.stop - slot.start > 1 and target.sum() > 0
            self.targets.append(target / target.sum() if usable else None)
        self.bias_V = torch.zeros(grammar.vocab_size)

    def __call__(self, slot: int, logits_BS: Tensor, live_B: Tensor) -> Tensor:
        """Find the bias of `slot` from the rows that reach it, and apply it."""
        target = self.targets[slot]
        rows_NS = logits_BS[live_B].float()
        if target is None or len(rows_NS) < MIN_LIVE_ROWS:
            return logits_BS
        bias_S = fit_bias(rows_NS, target.to(logits_BS.device))
        begin = int(self.grammar.start[slot])
        self.bias_V[begin : begin + len(bias_S)] = bias_S.cpu()
        return logits_BS + bias_S


def fit_bias(logits_NS: Tensor, target_S: Tensor) -> Tensor:
    """Bias for which the mean of softmax(logits + bias) is `target_S`; shape [S].

    Each iteration adds the log-ratio of wanted to given share; the biases' mean under the target
    is zero.
    """
    bias_S = torch.zeros_like(target_S)
    wanted = target_S.clamp(min=SMALLEST_SHARE).log()
    for _ in range(NUM_ITERATIONS):
        given = torch.softmax(logits_NS + bias_S, dim=1).mean(dim=0)
        bias_S = (bias_S + wanted - given.clamp(min=SMALLEST_SHARE).log()).clamp(
            -MAX_BIAS, MAX_BIAS
        )
    return bias_S - (bias_S * target_S).sum()


@torch.inference_mode()
def calibrate(
    vae: RecordVae,
    grammar: Grammar,
    token_share: npt.NDArray[np.float64],
    latents: LatentSource,
    *,
    seed: int,
) -> Tensor:
    """Biases of all tokens, shape [V], for records decoded from `latents`."""
    biases: list[Tensor] = []
    for batch in range(NUM_BATCHES):
        generator = torch.Generator().manual_seed(seed_of(seed, "calibration", batch))
        calibration = MarginalCalibration(grammar, token_share)
        noise_BD = latents.noise(
            CALIBRATION_ROWS, seed=seed_of(seed, "calibration"), first=batch * CALIBRATION_ROWS
        )
        z_BD = latents.latents(noise_BD)
        draw = TokenDraw(CALIBRATION_ROWS, generator)
        decode_tokens(vae.decoder, z_BD, [draw], adjust=calibration)
        biases.append(calibration.bias_V)
    return torch.stack(biases).mean(dim=0)
