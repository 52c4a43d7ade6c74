"""What the documents of a corpus hold, in one pass with bounded memory, by one reader or by many.

A profile is a tree: at every place in the documents, which types occur, how often, and what the
values look like. `json_schema.py` reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa

from difflm_core.data.schema import DataKind

# More distinct values than this are not listed.
MAX_VALUES = 256
# Objects with more distinct keys than this are maps: their keys are content, not structure.
MAX_KEYS = 64
# More digits after the point are full precision.
MAX_DECIMALS = 8

FORMATS: dict[str, re.Pattern[str]] = {
    "date": re.compile(r"(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])"),
    "date-time": re.compile(
        r"(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
        r"(?:\.\d{1,9})?(?:Z|[+-](?:0\d|1[0-3]):[0-5]\d)"
    ),
    "uuid": re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    "ipv4": re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}"),
}


@dataclass
class Range:
    """Smallest and largest of what was seen; None before anything was."""

    low: float | None = None
    high: float | None = None

    def add(self, low: float | None, high: float | None) -> None:
        """Widen the range."""
        if low is not None and (self.low is None or low < self.low):
            self.low = low
        if high is not None and (self.high is None or high > self.high):
            self.high = high


@dataclass
class Values:
    """Distinct values and how often they occur, up to `MAX_VALUES`; None: there are more."""

    counts: dict[Any, int] | None = field(default_factory=dict[Any, int])

    def add(self, value: Any, count: int = 1) -> None:
        """Count a value."""
        if self.counts is None:
            return
        self.counts[value] = self.counts.get(value, 0) + count
        if len(self.counts) > MAX_VALUES:
            self.counts = None

    def merge(self, other: Values) -> None:
        """Count what another has counted."""
        if other.counts is None:
            self.counts = None
            return
        for value, count in other.counts.items():
            self.add(value, count)


class Node:
    """Everything that occurs at one place of the documents.

    Attributes:
        counts: Occurrences of each type: null, boolean, integer, number, string, array, object.
        numbers: Range of integers and numbers.
        integers: Distinct integers.
        decimals: Most digits after the point; None: full precision.
        texts: Distinct strings.
        lengths: Range of the strings' lengths, in characters.
        formats: Formats that all strings so far have.
        items: The items of arrays.
        sizes: Range of the arrays' lengths.
        keys: The values of objects by key, in the order of their first occurrence; None: too many.
        values: The values of objects whose keys are too many.
        num_keys: Range of the number of keys of an object.
        total_keys: Keys of all objects together.
        key_lengths: Range of the keys' lengths, in characters.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.numbers = Range()
        self.integers = Values()
        self.decimals: int | None = 0
        self.texts = Values()
        self.lengths = Range()
        self.formats: set[str] = set(FORMATS)
        self.items: Node | None = None
        self.sizes = Range()
        self.keys: dict[str, Node] | None = {}
        self.values: Node | None = None
        self.num_keys = Range()
        self.total_keys = 0
        self.key_lengths = Range()

    @property
    def total(self) -> int:
        """Values seen here."""
        return sum(self.counts.values())

    def add(self, value: Any) -> None:
        """Look at one value."""
        kind = _type_of(value)
        if kind == "number" and value.is_integer():
            kind, value = "integer", int(value)  # as JSON Schema has it
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind in ("integer", "number"):
            self._add_number(value, kind)
        elif kind == "string":
            self._add_text(value)
        elif kind == "array":
            self._add_array(value)
        elif kind == "object":
            self._add_object(value)

    def _add_number(self, value: float, kind: str) -> None:
        self.numbers.add(value, value)
        if kind == "integer":
            self.integers.add(value)
        elif self.decimals is not None:
            decimals = num_decimals(value)
            self.decimals = None if decimals is None else max(self.decimals, decimals)

    def _add_text(self, value: str) -> None:
        self.texts.add(value)
        self.lengths.add(len(value), len(value))
        if self.formats:
            self.formats = {name for name in self.formats if FORMATS[name].fullmatch(value)}

    def _add_array(self, value: list[Any]) -> None:
        self.sizes.add(len(value), len(value))
        if value and self.items is None:
            self.items = Node()
        for item in value:
            cast("Node", self.items).add(item)

    def _add_object(self, value: dict[str, Any]) -> None:
        self.num_keys.add(len(value), len(value))
        self.total_keys += len(value)
        for key, inner in value.items():
            self.key_lengths.add(len(key), len(key))
            self._child(key).add(inner)

    def _child(self, key: str) -> Node:
        if self.keys is not None:
            child = self.keys.get(key)
            if child is not None:
                return child
            if len(self.keys) < MAX_KEYS:
                child = self.keys[key] = Node()
                return child
            self.collapse()
        return cast("Node", self.values)

    def collapse(self) -> None:
        """Take the keys for content: from now on, the values of all keys are one."""
        if self.keys is None:
            return
        self.values = Node()
        for child in self.keys.values():
            self.values.merge(child)
        self.keys = None

    def merge(self, other: Node) -> None:
        """Take over what another node has seen."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
        for name in ("numbers", "lengths", "sizes", "num_keys", "key_lengths"):
            theirs: Range = getattr(other, name)
            getattr(self, name).add(theirs.low, theirs.high)
        self.integers.merge(other.integers)
        self.texts.merge(other.texts)
        known = self.decimals is not None and other.decimals is not None
        self.decimals = max(self.decimals or 0, other.decimals or 0) if known else None
        self.formats &= other.formats
        self.total_keys += other.total_keys
        if other.items is not None:
            self.items = self.items or Node()
            self.items.merge(other.items)
        if other.keys is None:
            self.collapse()
            cast("Node", self.values).merge(cast("Node", other.values))
            return
        for key, child in other.keys.items():
            self._child(key).merge(child)

    def to_json(self) -> dict[str, Any]:
        """JSON form; inverse of `from_json`."""
        keys = self.keys
        return {
            "counts": self.counts,
            "ranges": [
                [r.low, r.high]
                for r in (self.numbers, self.lengths, self.sizes, self.num_keys, self.key_lengths)
            ],
            "integers": _pairs(self.integers),
            "texts": _pairs(self.texts),
            "decimals": self.decimals,
            "formats": sorted(self.formats),
            "total_keys": self.total_keys,
            "items": self.items and self.items.to_json(),
            "keys": None if keys is None else [[k, n.to_json()] for k, n in keys.items()],
            "values": self.values and self.values.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Node:
        """Inverse of `to_json`."""
        node = cls()
        node.counts = dict(data["counts"])
        ranges = [Range(low, high) for low, high in data["ranges"]]
        node.numbers, node.lengths, node.sizes, node.num_keys, node.key_lengths = ranges
        node.integers = Values(None if data["integers"] is None else dict(data["integers"]))
        node.texts = Values(None if data["texts"] is None else dict(data["texts"]))
        node.decimals = data["decimals"]
        node.formats = set(data["formats"])
        node.total_keys = data["total_keys"]
        node.items = cls.from_json(data["items"]) if data["items"] else None
        node.values = cls.from_json(data["values"]) if data["values"] else None
        keys = data["keys"]
        node.keys = None if keys is None else {key: cls.from_json(inner) for key, inner in keys}
        return node


def _pairs(values: Values) -> list[list[Any]] | None:
    return None if values.counts is None else [list(pair) for pair in values.counts.items()]


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def num_decimals(value: float) -> int | None:
    """Digits after the point of a number's shortest spelling; None: more than can be told apart."""
    mantissa, _, exponent = repr(value).partition("e")
    digits = len(mantissa.partition(".")[2].rstrip("0"))
    decimals = max(0, digits - int(exponent or 0))
    return decimals if decimals <= MAX_DECIMALS else None


class DocumentProfile:
    """The profile of a corpus, or of a piece of one.

    Attributes:
        kind: JSON or code.
        num_rows: Documents seen.
        root: What JSON documents hold.
        longest: Characters of the longest document.
    """

    def __init__(self, kind: DataKind) -> None:
        """Begin with nothing seen."""
        self.kind = kind
        self.num_rows = 0
        self.root = Node()
        self.longest = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at a batch of raw documents."""
        self.add_texts(batch.column(0).to_pylist())

    def add_texts(self, texts: Iterable[str]) -> None:
        """Look at raw documents."""
        for text in texts:
            self.num_rows += 1
            self.longest = max(self.longest, len(text))
            if self.kind is DataKind.JSON:
                self.root.add(json.loads(text))

    def merge(self, other: DocumentProfile) -> None:
        """Take over what the profile of a later piece has seen."""
        self.num_rows += other.num_rows
        self.longest = max(self.longest, other.longest)
        self.root.merge(other.root)

    def to_json(self) -> dict[str, Any]:
        """JSON form; inverse of `load`."""
        return {
            "num_rows": self.num_rows,
            "longest": self.longest,
            "root": self.root.to_json(),
        }

    def load(self, data: Mapping[str, Any]) -> None:
        """Inverse of `to_json`."""
        self.num_rows, self.longest = data["num_rows"], data["longest"]
        self.root = Node.from_json(data["root"])
