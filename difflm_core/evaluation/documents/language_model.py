"""A small language model of characters, to ask what a corpus teaches about real documents.

Interpolated Witten-Bell smoothing of orders 1 to `ORDER` (Witten and Bell 1991; Chen and Goodman
1998, section 2.5):

    P(c | h) = (N(hc) + T(h) P(c | h')) / (N(h) + T(h))

with N the counts, T(h) the number of distinct characters seen after h, and h' the history without
its first character. Trained on equally many characters of real and of synthetic documents, and
tested on real ones, it says how much of the real documents' language the synthetic ones have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ORDER = 6
# Characters of the alphabet, for those never seen: all of Unicode's would be too many to be fair.
ALPHABET = 256
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """Counts of one order: of history and character, of history, and of distinct followers."""

    grams: Hashes
    gram_counts: NDArray[np.int64]
    histories: Hashes
    history_counts: NDArray[np.int64]
    followers: NDArray[np.int64]


class CharacterModel:
    """Counts of all strings of up to `ORDER` characters."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Count the characters of `texts`; each ends with an end of its own."""
        codes = _codes(texts)
        self._orders: list[_Order] = []
        for length in range(ORDER):
            history, gram = _hashes(codes, length)
            grams, first, gram_counts = np.unique(gram, return_index=True, return_counts=True)
            histories, history_counts = np.unique(history, return_counts=True)
            # One distinct gram for each distinct follower of its history.
            owner = np.searchsorted(histories, history[first])
            followers = np.bincount(owner, minlength=len(histories))
            self._orders.append(_Order(grams, gram_counts, histories, history_counts, followers))

    def bits_per_character(self, texts: Sequence[str]) -> float:
        """Mean negative log2-likelihood of a character of `texts`."""
        codes = _codes(texts)
        probability: Floats = np.full(len(codes), 1.0 / ALPHABET)
        for length, order in enumerate(self._orders):
            history, gram = _hashes(codes, length)
            seen = _look_up(order.grams, order.gram_counts, gram)
            total = _look_up(order.histories, order.history_counts, history)
            distinct = _look_up(order.histories, order.followers, history)
            known = total > 0
            mixed = (seen + distinct * probability) / np.where(known, total + distinct, 1)
            probability = np.where(known, mixed, probability)
        return float(-np.log2(probability).mean())


def _codes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Code points of all texts, each behind zeros that hide the one before it."""
    joined = "".join("\0" * ORDER + text for text in texts) + "\0"
    return np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)


def _hashes(codes: NDArray[np.uint64], length: int) -> tuple[Hashes, Hashes]:
    """Hash of the `length` characters before each one, and of these with itself."""
    history = np.zeros(len(codes), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for back in range(length, 0, -1):
            shifted = np.concatenate([np.zeros(back, dtype=np.uint64), codes[:-back]])
            history = _mix(history, shifted)
        return history, _mix(history, codes)


def _mix(state: Hashes, value: NDArray[np.uint64]) -> Hashes:
    mixed = (state ^ (value + np.uint64(1))) * _MULTIPLIER
    return mixed ^ (mixed >> np.uint64(29))


def _look_up(keys: Hashes, values: NDArray[np.int64], wanted: Hashes) -> NDArray[np.int64]:
    """The value of each wanted key; 0 where there is none."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
