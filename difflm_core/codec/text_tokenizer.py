"""Tokenizers of documents: trained on the corpus, or that of a pretrained language model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from difflm_core.errors import ConfigError

END = "<end>"
# Keys that may stand inside one structural token.
MAX_KEYS = 256
MAX_KEY_LENGTH = 40
# A token that is seen a few times is learned by heart; its parts are learned (docs/adr/0025).
MIN_FREQUENCY = 10

_STRUCTURE = r'["\[\]{}:,]+'
_LETTERS = r" ?(?:\p{Lu}?\p{Ll}+|\p{Lu}+(?!\p{Ll})|[\p{L}\p{M}]+)"
_REST = r" ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]|\s+"
# A line break with the indentation that follows it is one piece, and so is a name's part.
_CODE = r"\n+[ \t]*| ?_*\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}_]+| ?_+|[ \t]+|\s+"


def train_tokenizer(
    texts: Iterable[Sequence[str]], json_schema: Mapping[str, Any] | None, *, vocab_size: int
) -> Tokenizer:
    """Train a byte-level BPE on documents.

    In JSON, a key and the punctuation around it are cut as one piece, `","description":"`, and so
    become one token: the choice of what comes next. The rest is cut into words, names such as
    `getUserId` into their parts.

    Args:
        texts: The documents, in lists.
        json_schema: Of JSON documents; None: code.
        vocab_size: Most tokens in all, the 256 bytes and the end included; small corpora get fewer.
    """
    tokenizer = Tokenizer(models.BPE())
    pattern = _CODE if json_schema is None else _json_pattern(json_schema)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _json_pattern(json_schema: Mapping[str, Any]) -> str:
    keys = sorted(set(_keys(json_schema)), key=lambda key: (-len(key), key))[:MAX_KEYS]
    structure = _STRUCTURE
    if keys:
        structure = f"{_STRUCTURE}(?:(?:{'|'.join(map(re.escape, keys))}){_STRUCTURE})?"
    escapes = r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
    return f"{structure}|{escapes}|{_LETTERS}|{_REST}"


def _keys(schema: Any) -> Iterator[str]:
    """Keys of objects in a JSON Schema, spelled as in a document, without quotes."""
    if isinstance(schema, list):
        for item in schema:
            yield from _keys(item)
    elif isinstance(schema, Mapping):
        for key in schema.get("properties", ()):
            spelled = json.dumps(key, ensure_ascii=False)
            if len(spelled) <= MAX_KEY_LENGTH:
                yield spelled.strip('"')
        for key, inner in schema.items():
            if key in ("properties", "$defs"):
                yield from _keys(list(inner.values()))
            elif key not in ("enum", "const"):
                yield from _keys(inner)


@dataclass(frozen=True)
class TokenizerSource:
    """A pretrained model whose tokenizer is used.

    Attributes:
        model: Path of a model's folder, or its id on the Hugging Face hub.
        revision: Commit, branch or tag on the hub; None: the newest.
    """

    model: str
    revision: str | None = None

    def load(self) -> tuple[Tokenizer, int]:
        """The tokenizer without any special treatment of a text's beginning, and its end token.

        Raises:
            ConfigError: there is no such model, or it has no fast tokenizer or no end token.
        """
        from transformers import AutoTokenizer

        try:
            loaded: Any = AutoTokenizer.from_pretrained(self.model, revision=self.revision)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"codec.tokenizer = {self.model!r}: there is no tokenizer "
                f"({str(error).splitlines()[0]}). Expected the folder of a Hugging Face model with "
                "its tokenizer, or a hub id that can be downloaded or is in the cache."
            ) from None
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None or loaded.eos_token_id is None:
            lacking = "fast tokenizer (tokenizer.json)" if backend is None else "end token"
            raise ConfigError(
                f"codec.tokenizer = {self.model!r}: the model has no {lacking}; choose a model "
                "that has one."
            )
        return _without_prefix(backend), int(loaded.eos_token_id)

    def require_exact(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        """Check that the tokenizer gives texts back as they are.

        Raises:
            ConfigError: it changes one, for example because it lowercases.
        """
        encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        decoded = tokenizer.decode_batch([encoding.ids for encoding in encodings])
        changed = sum(a != b for a, b in zip(texts, decoded, strict=True))
        if changed:
            raise ConfigError(
                f"codec.tokenizer = {self.model!r}: {changed} of {len(texts)} documents do not "
                "come back as they were from its tokens. Expected a tokenizer that loses nothing, "
                "such as a byte-level BPE; choose another model, or train one (codec.tokenizer "
                "null, vae.decoder null)."
            )


def _without_prefix(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that puts no space in front of a text.

    Tokenizers in the manner of SentencePiece begin a text with a blank, which a document has not:
    its first token would be one that no grammar allows.
    """
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    normalizer = data.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        kept = [part for part in normalizer["normalizers"] if part.get("type") != "Prepend"]
        data["normalizer"] = {**normalizer, "normalizers": kept}
    elif isinstance(normalizer, dict) and normalizer.get("type") == "Prepend":
        data["normalizer"] = None
    before = data.get("pre_tokenizer")
    parts = [before, *(before.get("pretokenizers", []) if isinstance(before, dict) else [])]
    had_prefix = data.get("normalizer") != normalizer
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "Metaspace":
            had_prefix |= part.get("prepend_scheme", "always") != "never"
            part["prepend_scheme"] = "never"
        if isinstance(part, dict) and part.get("type") == "ByteLevel":
            part["add_prefix_space"] = False
    decoder = data.get("decoder")
    if had_prefix and isinstance(decoder, dict) and decoder.get("type") == "Sequence":
        # It would take away a blank that is not there any more.
        decoder["decoders"] = [part for part in decoder["decoders"] if part.get("type") != "Strip"]
    elif isinstance(decoder, dict) and decoder.get("type") == "Metaspace":
        decoder["prepend_scheme"] = "never"
    return Tokenizer.from_str(json.dumps(data))
