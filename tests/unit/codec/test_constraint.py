"""Constrained writing: whatever is drawn among the allowed tokens is a valid document."""

import json
import random

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from difflm_core.codec.constraint import Constraint, json_grammar
from difflm_core.codec.document_checks import DUPLICATE_KEY, json_check
from difflm_core.codec.text_tokenizer import END, train_tokenizer
from difflm_core.data.json_schema import canonical_document, schema_of
from difflm_core.errors import ConfigError, SchemaError
from tests.documents import make_tools
from tests.unit.data.test_json_schema import profiled

TOOLS = make_tools(100)
SCHEMAS = {
    "tools": schema_of(profiled(TOOLS).root),
    "texts": {
        "type": "object",
        "properties": {"a": {"type": "string", "minLength": 2, "maxLength": 9}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "numbers": {
        "type": "array",
        "items": {
            "anyOf": [
                {"type": "number", "minimum": -5, "maximum": 5, "x-decimals": 2},
                {"type": "integer", "minimum": 100, "maximum": 200},
            ]
        },
        "minItems": 1,
        "maxItems": 3,
    },
    "formats": {
        "type": "object",
        "properties": {
            "d": {"type": "string", "format": "date"},
            "u": {"type": "string", "format": "uuid"},
            "i": {"type": "string", "format": "ipv4"},
        },
        "required": ["d", "u", "i"],
        "additionalProperties": False,
    },
    "map": {
        "type": "object",
        "patternProperties": {"^(?s:.{1,3})$": {"type": "boolean"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 3,
    },
}


def tokenizer_for(schema):
    texts = [canonical_document(tool, SCHEMAS["tools"]) for tool in TOOLS]
    return train_tokenizer([texts], schema, vocab_size=400)


def allowed_next(rows, count, constraint):
    """Mask [count, V] of the tokens that may come next."""
    bits = np.unpackbits(rows.allowed(np.arange(count)), axis=1, bitorder="little")
    assert not bits[:, constraint.vocab_size :].any()
    return bits[:, : constraint.vocab_size].astype(bool)


def written(constraint, count, max_tokens=200, seed=0):
    """Random documents: tokens drawn uniformly among the allowed ones, ends preferred."""
    generator = np.random.default_rng(seed)
    rows = constraint.start(count)
    ids = [[] for _ in range(count)]
    places = np.arange(count)
    for _ in range(max_tokens):
        allowed = allowed_next(rows, len(places), constraint)
        weights = allowed * generator.random(allowed.shape)
        weights[:, constraint.end] *= 3
        drawn = weights.argmax(axis=1)
        assert allowed[np.arange(len(drawn)), drawn].all()
        for place, token in zip(places, drawn.tolist(), strict=True):
            ids[place].append(token)
        assert rows.try_accept(drawn).all()
        kept = np.flatnonzero(drawn != constraint.end)
        if not len(kept):
            break
        rows.select(kept)
        places = places[kept]
    return ids


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_drawn_is_valid(name):
    schema = SCHEMAS[name]
    tokenizer = tokenizer_for(schema)
    constraint = Constraint(json_grammar(schema), tokenizer, end=tokenizer.token_to_id(END))
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    ended = [row for row in written(constraint, 40) if row[-1] == constraint.end]
    assert len(ended) >= 10
    for row in ended:
        text = tokenizer.decode(row)
        assert validator.is_valid(json.loads(text)), text
        # The check refuses only what no grammar can: a key that stands twice in a map.
        assert json_check(schema)(text) in (None, DUPLICATE_KEY)


def test_only_whole_documents_are_accepted():
    schema = SCHEMAS["tools"]
    tokenizer = tokenizer_for(schema)
    constraint = Constraint(json_grammar(schema), tokenizer, end=tokenizer.token_to_id(END))
    text = canonical_document(TOOLS[0], schema)
    encode = lambda value: tokenizer.encode(value, add_special_tokens=False).ids  # noqa: E731
    assert constraint.accepts(encode(text))
    assert not constraint.accepts(encode(text[:-1]))
    assert not constraint.accepts(encode(text + "}"))
    assert not constraint.accepts(encode(text.replace(",", ", ", 1)))
    assert not constraint.accepts(encode(text.replace("sports", "spurts")))


def test_after_the_end_only_the_end_is_allowed():
    schema = {"type": "boolean"}
    tokenizer = tokenizer_for(schema)
    constraint = Constraint(json_grammar(schema), tokenizer, end=tokenizer.token_to_id(END))
    rows = constraint.start(1)
    for token in tokenizer.encode("true", add_special_tokens=False).ids:
        assert rows.try_accept(np.array([token])).all()
    assert np.flatnonzero(allowed_next(rows, 1, constraint)[0]).tolist() == [constraint.end]


def test_rows_are_selected():
    schema = SCHEMAS["texts"]
    tokenizer = tokenizer_for(schema)
    constraint = Constraint(json_grammar(schema), tokenizer, end=tokenizer.token_to_id(END))
    rows = constraint.start(3)
    start = tokenizer.encode('{"a":"', add_special_tokens=False).ids
    for token in start:
        rows.try_accept(np.array([token] * 3))
    quote, letter = (tokenizer.encode(text, add_special_tokens=False).ids[0] for text in '"x')
    # A second quote ends a string of at least two characters too early.
    assert rows.try_accept(np.array([letter, quote, letter])).tolist() == [True, False, True]
    before = allowed_next(rows, 3, constraint)
    assert (before[0] == before[2]).all()
    assert not before[1][quote]
    one = rows.allowed(np.array([1])).copy()
    assert (one == rows.allowed(np.array([0, 1]))[1]).all()
    rows.select(np.array([1, 0]))
    assert (allowed_next(rows, 2, constraint) == before[[1, 0]]).all()


def test_a_token_that_is_refused_changes_nothing():
    schema = SCHEMAS["texts"]
    tokenizer = tokenizer_for(schema)
    constraint = Constraint(json_grammar(schema), tokenizer, end=tokenizer.token_to_id(END))
    rows = constraint.start(1)
    for token in tokenizer.encode('{"a":"xy"}', add_special_tokens=False).ids:
        refused = [constraint.vocab_size + 5]
        refused += np.flatnonzero(~allowed_next(rows, 1, constraint)[0])[:50].tolist()
        for other in refused:
            assert not rows.try_accept(np.array([other])).any()
        assert rows.try_accept(np.array([token])).all()
    assert rows.try_accept(np.array([constraint.end])).all()
    assert rows.try_accept(np.array([constraint.end])).all()
    assert not rows.try_accept(np.array([constraint.end + 1])).any()


def test_tokenizers_of_other_kinds_are_understood():
    """A vocabulary of whole words with bytes to fall back on, as SentencePiece has."""
    vocab = {f"<0x{i:02X}>": i for i in range(256)}
    for piece in ["</s>", '{"', "a", '":', "true", "false", "}", "▁"]:
        vocab[piece] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    constraint = Constraint(json_grammar(schema), tokenizer, end=vocab["</s>"])
    for row in written(constraint, 10, max_tokens=40):
        text = tokenizer.decode([i for i in row if i != constraint.end])
        assert text in ('{"a":true}', '{"a":false}')


def test_a_schema_that_cannot_be_enforced_is_refused():
    schema = {"type": "object", "propertyNames": {"maxLength": 3}}
    with pytest.raises(SchemaError, match="propertyNames"):
        Constraint(json_grammar(schema), tokenizer_for({}), end=0)


def test_a_tokenizer_whose_bytes_are_unknown_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ConfigError, match=r"codec\.tokenizer cannot be used with a grammar"):
        Constraint(json_grammar({"type": "boolean"}), tokenizer, end=1)


def test_very_long_texts_are_left_to_the_check():
    schema = {"type": "string", "maxLength": 6000}
    tokenizer = tokenizer_for(schema)
    constraint = Constraint(json_grammar(schema), tokenizer, end=tokenizer.token_to_id(END))
    text = json.dumps("x" * 6001)
    assert constraint.accepts(tokenizer.encode(text, add_special_tokens=False).ids)
    assert json_check(schema)(text) == "breaks the schema (maxLength)"


def test_threads_do_not_disturb_each_other():
    from concurrent.futures import ThreadPoolExecutor

    schema = SCHEMAS["tools"]
    tokenizer = tokenizer_for(schema)
    constraint = Constraint(json_grammar(schema), tokenizer, end=tokenizer.token_to_id(END))
    alone = [written(constraint, 4, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: written(constraint, 4, seed=seed), range(4)))
    assert together == alone
    random.seed(0)
