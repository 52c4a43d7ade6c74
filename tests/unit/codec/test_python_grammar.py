"""The grammar of Python: it takes what is Python, and little else."""

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pytest

from difflm_core.codec.constraint import Constraint, code_grammar
from difflm_core.codec.text import TextCodec, TextCodecOptions
from difflm_core.codec.text_tokenizer import END, train_tokenizer
from difflm_core.data.document_form import canonical_code, parse_python
from difflm_core.data.schema import Column, ColumnKind, Schema

FUNCTIONS = Path(__file__).parents[3] / "examples" / "data" / "functions.jsonl.gz"


@pytest.fixture(scope="module")
def functions():
    """Real functions, of many hands."""
    lines = gzip.open(FUNCTIONS, "rt", encoding="utf-8").read().splitlines()
    texts = [canonical_code(json.loads(line)["code"]) for line in lines]
    return random.Random(0).sample(texts, 600)


@pytest.fixture(scope="module")
def tokenizer(functions):
    return train_tokenizer([functions], None, vocab_size=1024)


@pytest.fixture(scope="module")
def accepts(tokenizer):
    """Tells whether the grammar takes a text."""
    constraint = Constraint(code_grammar(), tokenizer, end=tokenizer.token_to_id(END))
    return lambda text: constraint.accepts(tokenizer.encode(text).ids)


# Separated by empty comments.
PYTHON = r"""
x = 1
#
x: int = 1
y: list[int]
#
a, (b, *c) = d = yield
#
x += yield from f()
#
a.b[c:d, ::2, ...] = -x ** 2 if not y else lambda a, *b, c=1, **d: (a, b)
#
import a.b as c, d
from . import x
from ..y.z import (
    u as v,
    w,
)
from q import *
#
@a.b(1)
@c
async def f(a, /, b: int = 2, *, c=None, **d) -> dict[str, int]:
    return await a
#
class A(B, metaclass=C):
    '''Text
  of any indentation.
    '''

    x = 1  # why

# a comment at the margin
    def f(self): return self.x; pass
#
if (n := f(x)) > 1 and y is not None or z not in w:
    pass
elif a:
    pass
else:
    pass
#
for i, j in a, b:
    if i: break
    continue
else:
    pass
while True:
    del a[0], b
#
try:
    f()
except (A, B) as e:
    raise C from e
except D:
    raise
else:
    g()
finally:
    h()
try:
    f()
finally:
    g()
#
try:
    f()
except* A:
    return
except *B:
    yield
#
with open(a) as f, b:
    pass
with (
    a as b,
    c,
):
    pass
async def f():
    async with a: pass
    async for x in y: pass
    return [z async for z in w]
#
x = [a for b in c if d for e in f], {a: b for a, b in c}, {*a, 1}, {**a, 'b': 1}, (), {}, []
#
f(a, *b, c=1, **d)
f(x for x in y)
f(
    a,  # first
    b
    or c,
)
#
x = 'a' "b" f"{a!r:>{w}}" '''it's
"here"''' '' + rb'\'' b""
#
x = 0xff + 1_000 + 1e-3 + .5j + 0o17 + 0b1 + 10.
#
global a, b
assert x, 'y'
print(a @ b // c << 2 & ~d)
#
a = b if c else \
    d
#
def f():
    if a:
        if b:
            return

    # deeper
        # deepest
    return 1
#
π = 3
"""


@pytest.mark.parametrize("text", PYTHON.strip().split("\n#\n"))
def test_python_is_accepted(accepts, text):
    assert parse_python(text) is not None
    assert accepts(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x =",
        "x = (1",
        "x = 1)",
        "x = 'a",
        "x = '''a''",
        "x = 1 2",
        "if = 1",
        "f() = 1",
        "1 = x",
        "a + b = c",
        "def f():\nreturn 1",
        "def f():\n  return 1\n    return 2",
        "def f():\n    return 1\n     return 2",
        "if a:\n    pass\n       pass",
        "if a:\n    pass\n  else:\n    pass",
        "else:\n    pass",
        "try:\n    f()",
        "f(a=1, 2)",
        "def f(:\n    pass",
        "x = [a for a in]",
        "x = {1: 2, 3}",
        "return1 x",
        "import a.b.",
        "lambda x: return x",
        "not in x",
    ],
)
def test_what_is_no_python_is_refused(accepts, text):
    assert parse_python(text) is None or not text
    assert not accepts(text)


def test_real_functions_are_accepted(accepts, functions):
    assert sum(map(accepts, functions)) >= 0.99 * len(functions)


def test_slips_are_refused(accepts, functions):
    """One character added, changed or lost: what is no longer Python, is hardly ever accepted."""
    generator = random.Random(1)
    broken = []
    for text in functions:
        place = generator.randrange(len(text))
        slip = generator.choice(["", "(", ")", " ", "\n", ":", "'", "x"])
        text = canonical_code(text[:place] + slip + text[place + generator.choice([0, 1]) :])
        if parse_python(text) is None:
            broken.append(text)
    assert len(broken) > 100
    assert sum(map(accepts, broken)) <= 0.02 * len(broken)


def fitted(texts, **options):
    schema = Schema(columns=(Column(name="code", kind=ColumnKind.CODE),))
    table = pa.table({"code": texts})
    return TextCodec.fit(schema, table, TextCodecOptions(vocab_size=512, **options))


def test_a_corpus_that_does_not_fit_is_written_freely(tmp_path, functions):
    codec = fitted(functions)
    assert codec.fits_grammar
    codec.save(tmp_path)
    loaded = TextCodec.load(tmp_path)
    assert loaded.constraint is not None
    assert loaded.max_written == codec.max_written < codec.options.max_tokens
    by_two = [text.replace("    ", "  ") for text in functions]
    assert fitted(by_two).constraint is None
    assert fitted(functions, code_grammar="none").constraint is None
