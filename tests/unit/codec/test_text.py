"""The text codec: documents to tokens and back, and what is rejected."""

import json

import numpy as np
import pyarrow as pa
import pytest

from difflm_core.codec.document_checks import code_check
from difflm_core.codec.loading import load_codec
from difflm_core.codec.text import TextCodec, TextCodecOptions
from difflm_core.codec.text_tokenizer import END, train_tokenizer
from difflm_core.data.document_form import canonical_code
from difflm_core.data.json_schema import canonical_document, schema_of
from difflm_core.data.schema import Column, ColumnKind, Schema
from difflm_core.errors import DataError, SchemaError
from tests.documents import make_code, make_tools
from tests.unit.data.test_json_schema import profiled


def json_corpus(count=80):
    tools = make_tools(count)
    json_schema = schema_of(profiled(tools).root)
    schema = Schema(
        columns=(Column(name="document", kind=ColumnKind.JSON, json_schema=json_schema),)
    )
    texts = [canonical_document(tool, json_schema) for tool in tools]
    return schema, pa.table({"document": texts})


def code_corpus(count=80):
    schema = Schema(columns=(Column(name="code", kind=ColumnKind.CODE),))
    return schema, pa.table({"code": [canonical_code(text) for text in make_code(count)]})


def fitted(corpus, **options):
    schema, table = corpus
    return TextCodec.fit(schema, table, TextCodecOptions(400, **options)), table


@pytest.mark.parametrize("corpus", [json_corpus, code_corpus])
def test_documents_come_back(corpus, tmp_path):
    codec, table = fitted(corpus())
    codec.save(tmp_path)
    for each in (codec, load_codec(tmp_path)):
        tokens = each.encode(table)
        assert len(tokens) == table.num_rows
        rows = np.split(tokens.values, tokens.offsets[1:-1])
        assert all(row[-1] == each.end and each.end not in row[:-1] for row in rows)
        decoded = each.decode([row.tolist() for row in rows])
        assert decoded.valid.all()
        assert not decoded.rejections
        assert decoded.records.column(0).to_pylist() == table.column(0).to_pylist()
    assert load_codec(tmp_path).tokens_per_record == codec.tokens_per_record > 5


def test_structure_is_few_tokens():
    codec, table = fitted(json_corpus())
    tokens = codec.tokenizer.encode(table.column(0)[0].as_py()).tokens
    assert any(token.startswith('{"name":"') for token in tokens)
    lengths = codec.encode(table).lengths
    characters = np.array([len(text) for text in table.column(0).to_pylist()])
    assert (characters / lengths).mean() > 5


def test_any_text_can_be_spelled():
    codec, _ = fitted(json_corpus())
    for text in ('{"ü":"😀\u2028\\n"}', "\x00\x7f", "日本", "a" * 500):
        assert codec.tokenizer.decode(codec.tokenizer.encode(text).ids) == text


def test_a_schema_without_a_grammar_is_refused_before_training():
    column = Column(
        name="document", kind=ColumnKind.JSON, json_schema={"propertyNames": {"maxLength": 3}}
    )
    table = pa.table({"document": ['{"a":1}']})
    with pytest.raises(SchemaError, match="propertyNames"):
        TextCodec.fit(Schema(columns=(column,)), table, TextCodecOptions(400))


def test_long_documents_are_left_out_and_counted():
    codec, table = fitted(json_corpus(), max_tokens=30)
    tokens = codec.encode(table)
    assert 0 < tokens.num_too_long < table.num_rows
    assert len(tokens) + tokens.num_too_long == table.num_rows
    assert tokens.lengths.max() <= 30
    with pytest.raises(DataError, match="All documents have more than 3 tokens"):
        fitted(json_corpus(), max_tokens=3)


def test_padding():
    codec, table = fitted(code_corpus(10))
    tokens = codec.encode(table)
    padded = tokens.padded(np.array([3, 0]), pad=-1)
    assert padded.shape == (2, max(tokens.lengths[[3, 0]]))
    for row, index in zip(padded, (3, 0), strict=True):
        there = row[row >= 0]
        assert there.tolist() == np.split(tokens.values, tokens.offsets[1:-1])[index].tolist()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        (
            '{"parameters":{"a":{"type":"string","description":"x"},"a":1}}',
            "a key twice in one object",
        ),
        ("{}", "breaks the schema (required)"),
        ("NaN", "not valid JSON"),
        ("[1e999]", "not valid JSON"),
        ('"\\ud800"', "not valid UTF-8"),
        ("\N{REPLACEMENT CHARACTER}", "not valid UTF-8"),
    ],
)
def test_invalid_documents_are_rejected_for_a_reason(text, reason):
    codec, _ = fitted(json_corpus())
    ids = codec.tokenizer.encode(text).ids
    decoded = codec.decode([[*ids, codec.end]])
    assert not decoded.valid.any()
    assert dict(decoded.rejections) == {("document", reason): 1}
    assert decoded.records.num_rows == 0


def test_a_document_that_does_not_end_is_rejected():
    codec, table = fitted(json_corpus(), max_tokens=200)
    ids = codec.tokenizer.encode(table.column(0)[0].as_py()).ids
    decoded = codec.decode([ids, [*ids, codec.end], []])
    assert decoded.valid.tolist() == [False, True, False]
    reason = f"no end within {codec.max_written} tokens"
    assert dict(decoded.rejections) == {("document", reason): 2}


def test_what_is_generated_takes_its_canonical_form():
    codec, table = fitted(json_corpus())
    document = json.loads(table.column(0)[0].as_py())
    spelled = json.dumps(dict(reversed(document.items())))
    decoded = codec.decode([[*codec.tokenizer.encode(spelled).ids, codec.end]])
    assert decoded.records.column(0).to_pylist() == [table.column(0)[0].as_py()]


@pytest.mark.parametrize(
    ("rules", "text", "reason"),
    [
        ("parse", "x = 1", None),
        ("parse", "def f(:", "does not parse as Python"),
        ("parse", "x = y", None),
        ("parse", " \n", "empty"),
        ("parse", "x = '\\d'", None),
        ("parse", "(" * 1000, "does not parse as Python"),
        ("parse", "x = 1\0", "does not parse as Python"),
        ("names", "x = y", "an undefined name"),
        ("names", "def f(a):\n    return a + len([])", None),
    ],
)
def test_code_is_checked_without_being_run(rules, text, reason):
    assert code_check(rules)(text) == reason


def test_indentation_is_few_tokens():
    texts = [canonical_code(text) for text in make_code(50)]
    tokenizer = train_tokenizer([texts], None, vocab_size=400)
    tokens = tokenizer.encode("def f(x):\n    return x").tokens
    assert "ĊĠĠĠĠ" in tokens
    assert tokenizer.token_to_id(END) == 0
