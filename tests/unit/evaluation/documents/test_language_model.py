"""The model of characters against a naive one, and what makes its numbers probabilities."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_core.evaluation.documents.language_model import ALPHABET, ORDER, CharacterModel

END = 0


def symbols(text: str) -> list[int]:
    return [byte + 1 for byte in text.encode()] + [END]


class Naive:
    """Interpolated Witten-Bell, as it is written down."""

    def __init__(self, texts: list[str]) -> None:
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for text in texts:
            for history, symbol in histories(text):
                for length in range(ORDER):
                    self.counts[history[len(history) - length :]][symbol] += 1

    def probability(self, history: tuple[int, ...], symbol: int) -> float:
        lower = self.probability(history[1:], symbol) if history else 1 / ALPHABET
        seen = self.counts.get(history, Counter())
        total, distinct = seen.total(), len(seen)
        return (seen[symbol] + distinct * lower) / (total + distinct) if total else lower


def histories(text: str):
    """Each symbol and the ORDER - 1 before it; before a text there are ends."""
    padded = [END] * (ORDER - 1) + symbols(text)
    for place in range(ORDER - 1, len(padded)):
        yield tuple(padded[place - ORDER + 1 : place]), padded[place]


TEXTS = st.lists(st.text("ab\0é列", max_size=12), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS)
def test_it_is_the_naive_model(train, test) -> None:
    naive = Naive(train)
    expected = [naive.probability(*pair) for text in test for pair in histories(text)]
    assert CharacterModel(train).probabilities(test) == pytest.approx(expected, abs=1e-12)


def test_by_hand() -> None:
    # One text "a": symbols a and END. Order 0: N = 2, T = 2.
    first = (1 + 2 / ALPHABET) / (2 + 2)
    # After one end or more, only a was seen, once: N = T = 1, for each of the five histories.
    start = first
    for _ in range(ORDER - 1):
        start = (1 + start) / 2
    end = first  # END after a, after (END, a), ...
    for _ in range(ORDER - 1):
        end = (1 + end) / 2
    found = CharacterModel(["a"]).probabilities(["a"])
    assert found == pytest.approx([start, end])
    bits = CharacterModel(["a"]).bits_per_character(["a"])
    assert bits == pytest.approx(-math.log2(start) - math.log2(end))


def test_an_untrained_model_knows_nothing() -> None:
    bits = CharacterModel([]).bits_per_character(["abc"])
    assert bits == pytest.approx(4 / 3 * math.log2(ALPHABET))  # three characters and an end


@pytest.mark.parametrize("history", ["", "a", "zz", "abab", "列é"])
def test_probabilities_add_up_to_one(history) -> None:
    model = CharacterModel(["abab", "abc", "列é列é", ""])
    place = len(history.encode())
    # The symbols that are bytes of ASCII, and the end; others by their share of what is left.
    naive = Naive(["abab", "abc", "列é列é", ""])
    before = tuple(([END] * (ORDER - 1) + symbols(history)[:-1])[-(ORDER - 1) :])
    assert sum(naive.probability(before, symbol) for symbol in range(ALPHABET)) == pytest.approx(1)
    asked = [model.probabilities([history + chr(byte)])[place] for byte in range(128)]
    expected = [naive.probability(before, byte + 1) for byte in range(128)]
    assert asked == pytest.approx(expected)


def test_the_neighbour_of_a_text_is_not_its_history() -> None:
    model = CharacterModel(["abc", "xyz", "abd"])
    apart = [float(p) for text in ("ab", "xy") for p in model.probabilities([text])]
    assert model.probabilities(["ab", "xy"]) == pytest.approx(apart)


def test_more_of_the_same_language_costs_fewer_bits() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["rain", "wind", "storm"], 8).tolist()) for _ in range(40)]
    other = [" ".join(rng.choice(["loan", "bank", "price"], 8).tolist()) for _ in range(40)]
    test = texts[30:]
    bits = [
        CharacterModel(side).bits_per_character(test) for side in (texts[:30], texts[:3], other)
    ]
    assert bits == sorted(bits)
    assert bits[0] < 1 < 4 < bits[2]


def test_nothing_to_predict_is_said() -> None:
    with pytest.raises(ValueError, match="no characters"):
        CharacterModel(["a"]).bits_per_character([""])
