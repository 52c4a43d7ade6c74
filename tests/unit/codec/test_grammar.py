"""The grammar: what it accepts, and which slots carry information."""

import numpy as np
import pytest

from difflm_core.codec.grammar import Grammar, Slot

# A number (missing 0, whole 1, digits 2-3) with a second digit (4-5, idle 6), then a category.
GRAMMAR = Grammar([Slot(0, 4), Slot(4, 6, gate=(2, 4), idle=6), Slot(7, 9)], vocab_size=9)


@pytest.mark.parametrize(
    ("ids", "accepted"),
    [
        ([0, 6, 7], True),
        ([1, 6, 8], True),
        ([2, 4, 7], True),
        ([3, 5, 8], True),
        ([2, 6, 7], False),  # a digit is due
        ([1, 4, 7], False),  # none is
        ([4, 6, 7], False),
        ([0, 6, 9], False),
        ([0, 6, 6], False),
        ([-1, 6, 7], False),
    ],
)
def test_only_sentences_are_accepted(ids, accepted):
    assert GRAMMAR.accepts(np.array([ids])).tolist() == [accepted]


def test_idle_slots_are_not_live():
    ids = np.array([[0, 6, 7], [2, 4, 7]])
    assert GRAMMAR.live(ids).tolist() == [[True, False, True], [True, True, True]]
    assert len(GRAMMAR) == 3
    assert GRAMMAR.size.tolist() == [4, 2, 2]
