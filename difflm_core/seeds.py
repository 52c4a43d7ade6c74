"""Seeds: every random number is a function of the run's seed, a purpose and a global index.

Nothing keys on a worker's rank or on what was drawn before, so any number of workers, and a run
that was interrupted, give the same numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for `purpose` and position `index` of a run with `seed`."""
    text = ":".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A NumPy generator for `purpose` and position `index`."""
    return np.random.Generator(np.random.Philox(seed_of(seed, purpose, *index)))
