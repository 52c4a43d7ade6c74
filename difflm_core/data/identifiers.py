r"""Identifiers: infer the form of codes, and make new ones that are unique and of the same form.

An identifier carries no information to learn, so it is generated: the i-th synthetic row gets a
code that is a pure function of i. A pattern is written as text that a person can edit, a small
subset of regular expressions with two special parts:

    CUST-{from 50001, 6 digits}     a sequence that goes on after the last number of the data
    {from 101, step 2}              the same without padding, every second number
    {uuid4}                         a random UUID
    [A-Z]{2}\d{6}                   random codes, each drawn at most once
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc_module

from difflm_core.data.hashing import U64, mix, seed_key
from difflm_core.errors import DataError, SchemaError

_SEQUENCE = re.compile(r"\{from (\d+)(?:, step (\d+))?(?:, (\d+) digits)?\}")
_UUID = "{uuid4}"
_SHORTHANDS = {
    "d": string.digits,
    "w": string.ascii_uppercase + string.ascii_lowercase + string.digits + "_",
}
_CLASS_NAMES = (
    (string.digits, "\\d"),
    (string.ascii_uppercase, "[A-Z]"),
    (string.ascii_lowercase, "[a-z]"),
    ("0123456789abcdef", "[0-9a-f]"),
    ("0123456789ABCDEF", "[0-9A-F]"),
    (string.ascii_uppercase + string.digits, "[A-Z0-9]"),
    (string.ascii_lowercase + string.digits, "[a-z0-9]"),
    (string.ascii_letters, "[A-Za-z]"),
    (string.ascii_letters + string.digits, "[A-Za-z0-9]"),
)
_UUID_REGEX = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_MAX_SPACE = 1 << 62

pc: Any = pc_module


@dataclass(frozen=True)
class Run:
    """A stretch of a code: `least` to `most` characters of one alphabet (a literal has one)."""

    alphabet: str
    least: int = 1
    most: int = 1

    @property
    def num_choices(self) -> int:
        """Number of different stretches."""
        return sum(len(self.alphabet) ** length for length in range(self.least, self.most + 1))

    def regex(self) -> str:
        """This stretch as a regular expression."""
        if len(self.alphabet) == 1:
            body = re.escape(self.alphabet)
        else:
            body = (
                next((name for chars, name in _CLASS_NAMES if set(chars) == set(self.alphabet)), "")
                or "[" + "".join("\\" + c if c in "]\\^-[" else c for c in self.alphabet) + "]"
            )
        if self.most == 1:
            return body if self.least == 1 else body + "?"
        if self.least == self.most:
            return f"{body}{{{self.least}}}"
        return f"{body}{{{self.least},{self.most}}}"


@dataclass(frozen=True)
class Sequence:
    """A running number: first number to give out, step, and digits to pad to (0 = none)."""

    start: int
    step: int = 1
    digits: int = 0

    def text(self) -> str:
        """This part as written in a pattern."""
        step = f", step {self.step}" if self.step != 1 else ""
        digits = f", {self.digits} digits" if self.digits else ""
        return f"{{from {self.start}{step}{digits}}}"


@dataclass(frozen=True)
class IdentifierPattern:
    """The form of an identifier column, and a generator of new identifiers.

    Attributes:
        parts: Stretches of characters and at most one running number, in order; empty for a UUID.
    """

    parts: tuple[Run | Sequence, ...] = ()

    @property
    def is_uuid(self) -> bool:
        """Whether identifiers are random UUIDs (version 4)."""
        return not self.parts

    @property
    def sequence(self) -> Sequence | None:
        """The running number, if there is one."""
        return next((part for part in self.parts if isinstance(part, Sequence)), None)

    @property
    def capacity(self) -> int:
        """How many different identifiers the pattern can give."""
        if self.is_uuid:
            return 1 << 62
        sequence = self.sequence
        if sequence is not None:
            # A padded number may grow over its width only if there is none to keep.
            limit = 10**sequence.digits if sequence.digits else 1 << 63
            return max(0, -(-(limit - sequence.start) // sequence.step))
        total = 1
        for part in self.parts:
            total *= cast("Run", part).num_choices
        return total

    def text(self) -> str:
        """The pattern as written in a schema; `parse` is the inverse."""
        if self.is_uuid:
            return _UUID
        return "".join(p.text() if isinstance(p, Sequence) else p.regex() for p in self.parts)

    def regex(self) -> str:
        """Regular expression (RE2 and Python) of the identifiers of this form."""
        if self.is_uuid:
            return _UUID_REGEX
        pieces: list[str] = []
        for part in self.parts:
            if isinstance(part, Run):
                pieces.append(part.regex())
            else:
                pieces.append(f"\\d{{{part.digits}}}" if part.digits else "\\d+")
        return "".join(pieces)

    def matches(self, values: pa.Array) -> pa.Array:
        """Which values have this form (null for null)."""
        return pc.match_substring_regex(values, f"^(?:{self.regex()})$")

    @classmethod
    def parse(cls, text: str) -> IdentifierPattern:
        """Read a pattern.

        Raises:
            SchemaError: the text is outside the language described at the top of this module.
        """
        if text == _UUID:
            return cls()
        parts: list[Run | Sequence] = []
        position = 0
        while position < len(text):
            part, position = _parse_part(text, position)
            parts.append(part)
        if not parts:
            raise SchemaError("the identifier pattern is empty; expected e.g. 'ID-\\d{6}'")
        if sum(isinstance(part, Sequence) for part in parts) > 1:
            raise SchemaError(f"pattern {text!r} has two running numbers; keep one")
        return cls(tuple(parts))

    def generate(self, start_index: int, count: int, seed: int = 0) -> pa.Array:
        """Make the identifiers of rows `start_index .. start_index + count - 1`.

        Identifiers of different rows differ, whoever generates them: row i always gets the same
        one for a seed.

        Returns:
            String array of length `count`.

        Raises:
            DataError: the pattern has fewer identifiers than rows.
        """
        needed = start_index + count
        if needed > self.capacity:
            raise DataError(
                f"identifier pattern {self.text()!r} gives {self.capacity} different identifiers, "
                f"{needed} rows were asked for; widen the pattern in the schema, or ask for "
                "fewer rows"
            )
        if self.is_uuid:
            return _uuids(start_index, count, seed)
        sequence = self.sequence
        if sequence is not None:
            return self._generate_sequence(sequence, start_index, count)
        return self._generate_codes(start_index, count, seed)

    def _generate_sequence(self, sequence: Sequence, start_index: int, count: int) -> pa.Array:
        first = sequence.start + start_index * sequence.step
        numbers = pa.array(np.arange(count, dtype=np.int64) * sequence.step + first)
        texts: Any = numbers.cast(pa.string())
        if sequence.digits:
            texts = pc.utf8_lpad(texts, sequence.digits, "0")
        at = self.parts.index(sequence)
        before, after = (
            "".join(cast("Run", p).alphabet[0] * cast("Run", p).least for p in side)
            for side in (self.parts[:at], self.parts[at + 1 :])
        )
        return pc.binary_join_element_wise(before, texts, after, "")

    def _generate_codes(self, start_index: int, count: int, seed: int) -> pa.Array:
        """Random codes: a keyed permutation of the space, read in mixed radix."""
        runs = [cast("Run", part) for part in self.parts]
        index = np.arange(start_index, start_index + count, dtype=np.uint64)
        space = min(self.capacity, _MAX_SPACE)
        number = permute(index, space, seed_key(seed, "identifier:" + self.text()))
        pieces: list[Any] = []
        for order, run in enumerate(reversed(runs)):
            choices = min(run.num_choices, _MAX_SPACE)
            if space >= choices:
                digit, number = number % np.uint64(choices), number // np.uint64(choices)
                space //= choices
            else:
                # More codes than 62-bit numbers: what the permuted number cannot reach is hashed.
                key = seed_key(seed, f"identifier part {order}")
                digit = (mix(index ^ key) ^ number) % np.uint64(choices)
                space = 0
            pieces.append(_spell(digit, run))
        pieces.reverse()
        return pc.binary_join_element_wise(*pieces, "")


def _parse_part(text: str, position: int) -> tuple[Run | Sequence, int]:
    """Read one part of a pattern at a position; return it and the position after it."""
    sequence = _SEQUENCE.match(text, position)
    if sequence is not None:
        start, step, digits = (int(group or 0) for group in sequence.groups())
        return Sequence(start, step or 1, digits), sequence.end()
    char = text[position]
    if char == "\\" and position + 1 < len(text):
        following = text[position + 1]
        alphabet, position = _SHORTHANDS.get(following, following), position + 2
    elif char == "[":
        alphabet, position = _parse_class(text, position)
    elif char in "(){}|*+?.^$":
        raise SchemaError(
            f"pattern {text!r}: {char!r} at character {position + 1} is not supported; expected "
            "letters, digits, \\d, classes like [A-Z0-9], counts like {4}, {uuid4} or {from 1}"
        )
    else:
        alphabet, position = char, position + 1
    count = re.compile(r"\{(\d+)(?:,(\d+))?\}").match(text, position)
    if count is None:
        if position < len(text) and text[position] == "?":
            return Run(alphabet, 0, 1), position + 1
        return Run(alphabet), position
    least = int(count[1])
    most = int(count[2]) if count[2] else least
    if most < least or most == 0 or most > 256:
        raise SchemaError(f"pattern {text!r}: the count {count[0]} is not between 1 and 256")
    return Run(alphabet, least, most), count.end()


def _parse_class(text: str, position: int) -> tuple[str, int]:
    chars: list[str] = []
    at = position + 1
    while at < len(text) and text[at] != "]":
        if text[at] == "\\" and at + 1 < len(text):
            chars.extend(_SHORTHANDS.get(text[at + 1], text[at + 1]))
            at += 2
        elif at + 2 < len(text) and text[at + 1] == "-" and text[at + 2] != "]":
            chars.extend(chr(code) for code in range(ord(text[at]), ord(text[at + 2]) + 1))
            at += 3
        else:
            chars.append(text[at])
            at += 1
    if at >= len(text) or not chars:
        raise SchemaError(f"pattern {text!r}: the class at character {position + 1} is not closed")
    return "".join(dict.fromkeys(chars)), at + 1


def permute(index: U64, size: int, key: np.uint64) -> U64:
    """Keyed bijection of `0 .. size - 1`: a Feistel network with cycle walking.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
    """
    if size <= 1:
        return index.copy()
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    low_mask = (np.uint64(1) << half) - np.uint64(1)
    result = index.copy()
    pending = np.ones(len(index), dtype=bool)
    while pending.any():
        value = result[pending]
        left, right = value >> half, value & low_mask
        for turn in range(4):
            mixed = mix(right ^ mix(np.array([key + np.uint64(turn)], dtype=np.uint64))) & low_mask
            left, right = right, left ^ mixed
        result[pending] = (left << half) | right
        pending = result >= np.uint64(size)
    return result


def _spell(digit: U64, run: Run) -> pa.Array:
    """Write numbers `0 .. num_choices - 1` as stretches of a run."""
    radix = np.uint64(len(run.alphabet))
    lengths = np.full(len(digit), run.least, dtype=np.int64)
    rest = digit.copy()
    for length in range(run.least, run.most):
        over = (lengths == length) & (rest >= radix ** np.uint64(length))
        rest[over] -= radix ** np.uint64(length)
        lengths[over] += 1
    if run.most == 0:
        return pa.array([""] * len(digit))
    letters = np.array(list(run.alphabet))
    grid: npt.NDArray[np.str_] = np.full((len(digit), run.most), "", dtype="<U1")
    for place in range(run.most - 1, -1, -1):
        used = place < lengths
        grid[used, place] = letters[(rest[used] % radix).astype(np.int64)]
        rest[used] //= radix
    return pa.array(["".join(row) for row in grid.tolist()], pa.string())


def _uuids(start_index: int, count: int, seed: int) -> pa.Array:
    index = np.arange(start_index, start_index + count, dtype=np.uint64)
    low = permute(index, 1 << 62, seed_key(seed, "uuid")) | np.uint64(1 << 63)
    high = mix(index ^ seed_key(seed, "uuid high"))
    high = (high & np.uint64(0xFFFFFFFFFFFF0FFF)) | np.uint64(0x4000)
    texts: list[str] = []
    for upper, lower in zip(high.tolist(), low.tolist(), strict=True):
        digits = f"{upper:016x}{lower:016x}"
        texts.append(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")
    return pa.array(texts, pa.string())


def infer_codes(values: list[str]) -> IdentifierPattern | None:
    """Find the form of random-looking codes, or None when they have no common one.

    Args:
        values: Different identifiers, at least two.
    """
    if not values or any(
        not value or len(value) > 64 or re.search(r"\s", value) for value in values
    ):
        return None
    if all(re.fullmatch(_UUID_REGEX, value) for value in values):
        return IdentifierPattern()
    shapes = {tuple(kind for kind, _ in _stretches(value)) for value in values}
    if len(shapes) == 1:
        rows = [[text for _, text in _stretches(value)] for value in values]
        return _from_columns([list(column) for column in zip(*rows, strict=True)])
    if len({len(value) for value in values}) == 1:
        return _from_columns([list(column) for column in zip(*values, strict=True)])
    if all(value.isascii() and value.isalnum() for value in values):
        return _from_columns([values])
    return None


def _stretches(value: str) -> list[tuple[str, str]]:
    """Split a code into stretches of digits, letters and single other characters."""
    found = re.findall(r"\d+|[A-Z]+|[a-z]+|.", value, flags=re.DOTALL)
    return [(_shape(text), text) for text in found]


def _shape(text: str) -> str:
    char = text[0]
    if char in string.digits:
        return "9"
    if char in string.ascii_uppercase:
        return "A"
    return "a" if char in string.ascii_lowercase else char


def _from_columns(columns: list[list[str]]) -> IdentifierPattern | None:
    """Pattern of codes that are cut into the same number of stretches."""
    parts: list[Run | Sequence] = []
    for column in columns:
        if len(set(column)) == 1:
            parts.extend(Run(char) for char in column[0])
            continue
        used = set("".join(column))
        alphabet = next((chars for chars, _ in _CLASS_NAMES if used <= set(chars)), None)
        if alphabet is None:
            alphabet = "".join(sorted(used))
        lengths = [len(text) for text in column]
        run = Run(alphabet, min(lengths), max(lengths))
        previous = parts[-1] if parts else None
        if (
            isinstance(previous, Run)
            and previous.alphabet == alphabet
            and run.most == 1 == run.least
        ):
            parts[-1] = Run(alphabet, previous.least + 1, previous.most + 1)
        else:
            parts.append(run)
    return IdentifierPattern(tuple(parts))
