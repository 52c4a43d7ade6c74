"""Small corpora of documents, made by rule."""

import json

import numpy as np
import pyarrow as pa

from difflm_core.data.schema import Column, ColumnKind, Schema

CATEGORIES = ("finance", "sports", "travel", "weather")
WORDS = {
    "finance": ("loan", "share", "price", "bank"),
    "sports": ("match", "team", "score", "league"),
    "travel": ("hotel", "flight", "city", "route"),
    "weather": ("rain", "wind", "storm", "forecast"),
}
JSON_SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": list(CATEGORIES)},
        "name": {"type": "string"},
        "count": {"type": ["integer", "null"]},
        "arguments": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "type": {"type": "string", "enum": ["STRING", "NUMBER"]},
                },
                "required": ["name", "type"],
            },
        },
    },
    "required": ["category", "name"],
}
JSON = Schema(
    columns=(Column(name="document", kind=ColumnKind.JSON, json_schema=JSON_SCHEMA),),
    target="category",
)
CODE = Schema(columns=(Column(name="code", kind=ColumnKind.CODE),))


def json_texts(count: int, seed: int) -> list[str]:
    """Documents whose words tell their category."""
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    for _ in range(count):
        category = CATEGORIES[rng.integers(4)]
        words = " ".join(rng.choice(WORDS[category], 6).tolist())
        document = {"category": category, "name": f"{words} {rng.integers(10_000)}"}
        if rng.random() < 0.5:
            document["count"] = None if rng.random() < 0.2 else int(rng.integers(100))
        document["arguments"] = [
            {"name": f"a{i}", "type": str(rng.choice(["STRING", "NUMBER"]))}
            for i in range(rng.integers(4))
        ]
        texts.append(json.dumps(document, separators=(",", ":")))
    return texts


def code_texts(count: int, seed: int) -> list[str]:
    """Functions of random names, numbers and lengths."""
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    for _ in range(count):
        names = rng.choice(["total", "value", "items", "left", "right"], 3).tolist()
        lines = [f"def {names[0]}_{rng.integers(10_000)}({names[1]}, number: int):"]
        for index in range(rng.integers(1, 5)):
            lines.append(f"    {names[2]}{index} = {names[1]} + {rng.integers(1000)}")
        lines.append(f"    return {names[1]} * {rng.integers(1000)}")
        texts.append("\n".join(lines) + "\n")
    return texts


def table(texts: list[str | None], name: str = "document") -> pa.Table:
    """A canonical table of documents."""
    return pa.table({name: pa.array(texts, pa.string())})
