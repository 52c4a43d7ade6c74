"""Which tokens each position of a record may hold.

A record is a fixed number of *slots*. Every slot owns a contiguous range of token ids, so the
allowed tokens of a position are a slice, not a mask over the vocabulary. Some slots only carry
information when the slot before them says so (the second digit of a number whose first token is
a whole value, text after its end): such a slot has a *gate*, and holds its *idle* token while the
gate is shut. Idle tokens are forced, never predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Slot:
    """One position of a record.

    Attributes:
        start: First token id that may be predicted here.
        stop: One past the last token id that may be predicted here.
        gate: Half-open range of token ids; the slot is live only when the token before it lies
            in this range. None: always live.
        idle: Token id held while the gate is shut. None exactly when `gate` is None.
    """

    start: int
    stop: int
    gate: tuple[int, int] | None = None
    idle: int | None = None


class Grammar:
    """The slots of a record as arrays of shape [T], one entry per position.

    Attributes:
        start: First allowed token id of each slot.
        size: Number of allowed tokens of each slot.
        gate_start: Start of the gate's token range; an ungated slot accepts every token.
        gate_stop: End (exclusive) of the gate's token range.
        idle: Idle token of each slot, -1 where there is none.
        vocab_size: Number of token ids in all.
    """

    def __init__(self, slots: list[Slot], vocab_size: int) -> None:
        """Compile `slots` for a vocabulary of `vocab_size` tokens."""
        self.slots = tuple(slots)
        self.vocab_size = vocab_size
        everything = (0, vocab_size)
        self.start = np.array([slot.start for slot in slots], dtype=np.int64)
        self.size = np.array([slot.stop - slot.start for slot in slots], dtype=np.int64)
        gates = [slot.gate or everything for slot in slots]
        self.gate_start = np.array([gate[0] for gate in gates], dtype=np.int64)
        self.gate_stop = np.array([gate[1] for gate in gates], dtype=np.int64)
        self.idle = np.array(
            [-1 if slot.idle is None else slot.idle for slot in slots], dtype=np.int64
        )

    def __len__(self) -> int:
        """Number of slots, T."""
        return len(self.slots)

    def live(self, ids_BT: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Tell which positions carry information.

        Args:
            ids_BT: Token ids, shape [B, T].

        Returns:
            Mask of shape [B, T]; False where the slot only holds its idle token.
        """
        mask = np.ones(ids_BT.shape, dtype=bool)
        before = ids_BT[:, :-1]
        mask[:, 1:] = (before >= self.gate_start[1:]) & (before < self.gate_stop[1:])
        return mask

    def accepts(self, ids_BT: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Tell which rows of token ids, shape [B, T], are sentences of this grammar."""
        inside = (ids_BT >= self.start) & (ids_BT < self.start + self.size)
        fits: npt.NDArray[np.bool_] = np.where(self.live(ids_BT), inside, ids_BT == self.idle)
        return np.asarray(fits.all(axis=1))
