"""Latents: the batch that travels between the VAE and the diffusion, and its scaler.

Shape legend: N rows, D latent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

# A latent dimension that varies less than this is not in use (Burda et al. 2016, "active units").
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class LatentBatch:
    """Gaussian posteriors of N records.

    Attributes:
        mean: Posterior means, shape [N, D], float32.
        std: Posterior standard deviations, shape [N, D], float32.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Draw one latent per record with standard normal `noise` of shape [N, D]."""
        return self.mean + self.std * noise

    def to_arrow(self) -> pa.Table:
        """Arrow table with the columns `mean` and `std`, fixed-size lists of float32."""
        return pa.table({"mean": _to_lists(self.mean), "std": _to_lists(self.std)})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> LatentBatch:
        """Inverse of `to_arrow`."""
        return cls(_from_lists(table.column("mean")), _from_lists(table.column("std")))


@dataclass(frozen=True)
class LatentScaler:
    """Shifts and scales latents to zero mean and unit variance in every dimension.

    Attributes:
        mean: Mean of the aggregate posterior, shape [D].
        std: Its standard deviation, shape [D].
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, batches: Iterable[LatentBatch]) -> LatentScaler:
        """Fit to the aggregate posterior: moments of the means, plus the posteriors' variance."""
        count = 0
        total: Tensor | float = 0.0
        squares: Tensor | float = 0.0
        for batch in batches:
            mean, std = batch.mean.double(), batch.std.double()
            count += mean.shape[0]
            total = total + mean.sum(dim=0)
            squares = squares + (mean.square() + std.square()).sum(dim=0)
        center = torch.as_tensor(total) / count
        variance = torch.as_tensor(squares) / count - center.square()
        return cls(center.float(), variance.clamp(min=1e-12).sqrt().float())

    def scale(self, batch: LatentBatch) -> LatentBatch:
        """Bring posteriors to the scale of the diffusion."""
        return LatentBatch((batch.mean - self.mean) / self.std, batch.std / self.std)

    def unscale(self, z: Tensor) -> Tensor:
        """Bring diffusion samples, shape [N, D], back to the scale of the VAE."""
        return z * self.std + self.mean


def active_dimensions(means: Tensor) -> int:
    """Number of dimensions whose posterior mean varies between records; `means` is [N, D]."""
    return int((means.var(dim=0) > ACTIVE_VARIANCE).sum())


def _to_lists(values: Tensor) -> pa.FixedSizeListArray:
    flat = np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def _from_lists(column: pa.ChunkedArray) -> Tensor:
    lists = column.combine_chunks()
    values: npt.NDArray[np.float32] = lists.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.reshape(len(lists), lists.type.list_size).copy())
