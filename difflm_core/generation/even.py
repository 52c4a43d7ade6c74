"""Even draws: a batch represents the learned distribution with little noise of its own.

A synthetic table is judged by its marginals, and independent rows miss them even if the model is
perfect. Here each row alone follows the model exactly, but the rows of a table are spread over its
distribution together (docs/adr/0011).

Shape legend: B batch, D latent, G draws, S tokens of a slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from difflm_core.seeds import seed_of

# Rows of one Sobol sequence; the next ones continue with another scrambling, so that reaching any
# row of a large table costs no more than this.
SEQUENCE_ROWS = 65_536


def even_normals(count: int, dim: int, *, seed: int, first: int = 0) -> Tensor:
    """Standard normal noise of the rows `first .. first + count - 1` of a table.

    Each row alone is standard normal; together they are scrambled Sobol sequences, which
    represent the distribution with less error than independent rows (Owen 1998, "Scrambling
    Sobol' and Niederreiter-Xing points").

    Args:
        count: Rows, B.
        dim: Dimensions, D.
        seed: Of the table; decides the scrambling.
        first: Index of the first row in the table.

    Returns:
        Noise of shape [B, D], float32; how a table is cut into batches does not change it.
    """
    parts: list[Tensor] = []
    stop = first + count
    while first < stop:
        sequence, skipped = divmod(first, SEQUENCE_ROWS)
        sobol = torch.quasirandom.SobolEngine(
            dim, scramble=True, seed=seed_of(seed, "sobol", sequence)
        )
        if skipped:
            sobol.fast_forward(skipped)
        size = min(stop - first, SEQUENCE_ROWS - skipped)
        parts.append(sobol.draw(size, dtype=torch.float64))
        first += size
    # Away from 0 and 1, where the normal quantile is infinite, by less than a step of the sequence.
    uniform_BD = torch.cat(parts).clamp(2.0**-32, 1 - 2.0**-32)
    return torch.special.ndtri(uniform_BD).float()


class Draws:
    """Which rows of a batch are drawn together.

    Attributes:
        index_B: Number of each row's draw, ascending.
    """

    def __init__(
        self, sizes: Sequence[int], generators: Sequence[torch.Generator], device: torch.device
    ) -> None:
        """Cut a batch into draws of `sizes` rows, G of them, each with its generator (CPU)."""
        self._generators = generators
        self._shape = (len(sizes), max(sizes))
        counts = torch.tensor(sizes, device=device)
        self.index_B = torch.arange(len(sizes), device=device).repeat_interleave(counts)
        begin_B = (counts.cumsum(dim=0) - counts)[self.index_B]
        place_B = torch.arange(len(self.index_B), device=device) - begin_B
        self._cell_B = self.index_B * self._shape[1] + place_B

    def uniforms(self, count: int) -> Tensor:
        """Numbers in [0, 1) of each draw, shape [G, count], float64."""
        drawn = [torch.rand(count, generator=g, dtype=torch.float64) for g in self._generators]
        return torch.stack(drawn).to(self.index_B.device)

    def steps(self, share_B: Tensor, uniform_G: Tensor) -> Tensor:
        """By how much floor(cumulative share + uniform) rises at each row of its draw, shape [B].

        Sums run through the rows of a draw one by one, so other draws change no bit of them.
        """
        table = share_B.new_zeros(self._shape)
        table.view(-1)[self._cell_B] = share_B
        counts = (table.cumsum(dim=1) + uniform_G[:, None]).floor()
        return counts.diff(prepend=counts.new_zeros(len(counts), 1), dim=1).view(-1)[self._cell_B]


def even_tokens(probabilities_BS: Tensor, live_B: Tensor, draws: Draws) -> Tensor:
    """Draw one token per row, so that each token comes about as often as the rows expect.

    The tokens of a slot are halved again and again. At each halving the rows that got here are
    ordered by their expected token, and those that go right are drawn by systematic sampling with
    unequal probabilities (Madow 1949): one uniform number decides for all, each row goes right
    with its own probability, and in any stretch of rows as many do as their probabilities sum to,
    give or take one.

    Args:
        probabilities_BS: Distribution of each row.
        live_B: Rows whose token matters; the others do not disturb them.
        draws: Which rows are drawn together.

    Returns:
        Indices of tokens, shape [B], int64.
    """
    batch, size = probabilities_BS.shape
    device = probabilities_BS.device
    index_S = torch.arange(size, dtype=probabilities_BS.dtype, device=device)
    expected_B = (probabilities_BS * index_S).sum(dim=1)
    order_B = torch.where(live_B, expected_B, -1.0).argsort(stable=True)
    order_B = order_B[draws.index_B[order_B].argsort(stable=True)]
    masses = _halved_masses(probabilities_BS[order_B])
    uniforms = draws.uniforms(len(masses))
    node_B = torch.zeros(batch, dtype=torch.int64, device=device)
    for level, mass_BN in enumerate(masses):
        children_B2 = mass_BN.gather(1, torch.stack([2 * node_B, 2 * node_B + 1], dim=1)).double()
        share_B = children_B2[:, 1] / children_B2.sum(dim=1)
        # Rows of one node of a draw side by side, in the order of their expected tokens.
        group_B = ((draws.index_B << level) + node_B).argsort(stable=True)
        right_B = torch.empty_like(share_B)
        right_B[group_B] = draws.steps(share_B[group_B], uniforms[:, level])
        # Rounding of the sum must not choose what is impossible.
        right_B = torch.where((share_B > 0) & (share_B < 1), right_B, share_B)
        node_B = 2 * node_B + right_B.long()
    chosen_B = torch.empty_like(node_B)
    chosen_B[order_B] = node_B
    return chosen_B


def _halved_masses(probabilities_BS: Tensor) -> list[Tensor]:
    """Probability of the nodes of a binary tree over the tokens, from its top level to the leaves.

    Sums, not differences of a cumulative distribution: the mass of tokens that cannot be is zero.
    """
    size = probabilities_BS.shape[1]
    leaves = 1 << max(1, (size - 1).bit_length())
    masses = [torch.nn.functional.pad(probabilities_BS, (0, leaves - size))]
    while masses[0].shape[1] > 2:
        masses.insert(0, masses[0].unflatten(1, (-1, 2)).sum(dim=2))
    return masses
