"""Defaults that depend on what the records are.

Documents are longer than rows and fewer, so a model of them is larger, and trains longer on
each. A setting that is given always stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Preset = Mapping[str, Mapping[str, Any]]

DOCUMENTS: Preset = {
    "codec": {"shard_rows": 16_384, "fit_rows": 65_536},
    "vae": {
        "width": 192,
        "num_layers": 4,
        "num_heads": 6,
        "encoder_layers": 2,
        "latent_dim": 32,
        "num_prompts": 4,
        "max_tokens": 2_000_000,
        "valid_rows": 256,
        "evaluate_every_steps": 100,
        "patience": 4,
        "language_share": 0.5,
    },
    "latents": {"batch_rows": 64},
    "generation": {"batch_rows": 64, "shard_rows": 4096},
}
# On top of a pretrained language model, little is trained, and nothing of it is a matrix of blocks
# that start at random.
PRETRAINED: Preset = {
    "vae": {"optimizer": "adamw", "lr": 1e-3, "language_share": 0.2},
}


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of the kind of data where nothing is given.

    Args:
        values: The sections of a configuration, nested.
    """
    filled = dict(values)
    if _get(values, "data", "kind") not in ("json", "code"):
        return filled
    if _get(values, "vae", "decoder") is not None:
        filled = _filled(filled, PRETRAINED)
        for name, origin in (("tokenizer", "decoder"), ("tokenizer_revision", "decoder_revision")):
            if (
                _get(values, "codec", "tokenizer") is None
                and (value := _get(values, "vae", origin)) is not None
            ):
                filled = _filled(filled, {"codec": {name: value}})
    return _filled(filled, DOCUMENTS)


def _get(values: Mapping[str, Any], section: str, key: str) -> Any:
    inner = values.get(section)
    return inner.get(key) if isinstance(inner, Mapping) else getattr(inner, key, None)


def _filled(values: dict[str, Any], preset: Preset) -> dict[str, Any]:
    filled = dict(values)
    for section, defaults in preset.items():
        given = filled.get(section)
        if given is None or isinstance(given, Mapping):
            kept = {k: v for k, v in (given or {}).items() if v is not None or k not in defaults}
            filled[section] = {**defaults, **kept}
    return filled
