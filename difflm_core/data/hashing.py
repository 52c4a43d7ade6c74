"""Counter-based hashing: randomness that depends on a seed and a row index, on nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def mix(x: U64) -> U64:
    """Finaliser of SplitMix64, a bijection of 64-bit integers.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def seed_key(seed: int, purpose: str) -> np.uint64:
    """64-bit key of a seed for one purpose, so that different uses of a seed are independent."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    key = mix(key + _GOLDEN)
    for byte in purpose.encode():
        key = mix(key ^ np.uint64(byte + 1))
    return key[0]


def hash_indices(start: int, count: int, key: np.uint64) -> U64:
    """Hash of the row indices `start .. start + count - 1` under a key."""
    index = np.arange(start, start + count, dtype=np.uint64)
    return mix(mix(index + _GOLDEN) ^ key)
