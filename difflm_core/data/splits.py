"""Split the rows of a stream into train, validation and test parts.

The part of a row is decided by a seeded hash of its global index, so the parts are disjoint by
construction and do not depend on batch sizes or on who reads the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from difflm_core.data.hashing import seed_key
from difflm_core.data.identifiers import permute
from difflm_core.errors import DataError

SPLIT_NAMES = ("train", "valid", "test")


@dataclass(frozen=True)
class SplitPlan:
    """Which part each row of a table of known size belongs to.

    The rows are put in a seeded order by a keyed permutation of the row indices; the first
    `num_test` of that order are the test rows, the next `num_valid` the validation rows. Sizes are
    therefore exact, and the part of one row is computed from its index alone.

    Attributes:
        num_rows: Rows of the table.
        num_valid: Rows for validation.
        num_test: Rows for the test.
        seed: Seed of the assignment.
    """

    num_rows: int
    num_valid: int
    num_test: int
    seed: int

    @property
    def num_train(self) -> int:
        """Rows to train on."""
        return self.num_rows - self.num_valid - self.num_test

    @property
    def sizes(self) -> dict[str, int]:
        """Rows by part."""
        return {"train": self.num_train, "valid": self.num_valid, "test": self.num_test}

    def assign(self, start: int, count: int) -> npt.NDArray[np.int8]:
        """Part of rows `start .. start + count - 1`: 0 train, 1 valid, 2 test."""
        index = np.arange(start, start + count, dtype=np.uint64)
        place = permute(index, self.num_rows, seed_key(self.seed, "split"))
        parts = np.zeros(count, dtype=np.int8)
        parts[place < np.uint64(self.num_test + self.num_valid)] = 1
        parts[place < np.uint64(self.num_test)] = 2
        return parts

    def split(self, batch: pa.RecordBatch, start: int) -> dict[str, pa.RecordBatch]:
        """Cut a batch whose first row has the global index `start` into its parts."""
        parts = self.assign(start, batch.num_rows)
        return {
            name: batch.filter(pa.array(parts == number)) for number, name in enumerate(SPLIT_NAMES)
        }


def plan_splits(
    num_rows: int,
    *,
    valid_fraction: float,
    test_fraction: float,
    seed: int,
    source: str = "table",
) -> SplitPlan:
    """Plan the split of a table.

    A part that is asked for (fraction above 0) gets at least one row.

    Args:
        num_rows: Rows of the table.
        valid_fraction: Share of the rows for validation, from 0 to 1.
        test_fraction: Share of the rows for the test, from 0 to 1.
        seed: Seed of the assignment.
        source: Name of the table in errors.

    Raises:
        DataError: the table has too few rows for the parts.
    """
    wanted = {"validation": valid_fraction, "test": test_fraction}
    parts = ["training", *(name for name, fraction in wanted.items() if fraction > 0)]
    # Two rows to train on: one alone has no distribution.
    needed = len(parts) + 1
    if num_rows < needed:
        raise DataError(
            f"{source}: found {num_rows} {'row' if num_rows == 1 else 'rows'}, expected at least "
            f"{needed} to have {', '.join(parts)} rows (2 to train on); add rows, or set "
            "valid_fraction or test_fraction to 0"
        )
    num_valid, num_test = (
        max(1, round(num_rows * fraction)) if fraction > 0 else 0
        for fraction in (valid_fraction, test_fraction)
    )
    spare = num_rows - 2
    if num_valid + num_test > spare:
        num_test = min(num_test, max(1, spare // 2)) if test_fraction > 0 else 0
        num_valid = min(num_valid, spare - num_test)
    return SplitPlan(num_rows, num_valid, num_test, seed)
