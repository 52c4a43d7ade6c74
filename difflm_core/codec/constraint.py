"""Which tokens a grammar allows next, for batches of documents that are being written.

A JSON Schema becomes a grammar of canonical documents (llguidance): no blanks between tokens, keys
in the order of `properties`, strings in the spelling that `json.dumps` gives them. Code has a
grammar of Python (`python_grammar.py`). What no grammar of that kind can say is checked afterwards
(`document_checks.py`), such as that no key stands twice in a map.

Shape legend: B batch, R some rows of it, V vocabulary, W bytes with a bit for each token.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

import llguidance
import numpy as np
import numpy.typing as npt
from llguidance import numpy as bitmasks
from tokenizers import Tokenizer

from difflm_core.codec.python_grammar import python_grammar
from difflm_core.data.json_schema import DECIMALS_KEY
from difflm_core.errors import ConfigError, SchemaError

# Documents are written as `data.json_schema.canonical_document` writes them.
_SPELLING = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": True,
}


# Counting characters further than this would take too many states; the check of the finished
# document does it.
MAX_LENGTH = 512
# Nor are larger numbers, whose last digits are not exact, or smaller fractions.
MAX_NUMBER, MIN_FRACTION = 1e15, 1e-6


class Constraint:
    """A grammar compiled for a tokenizer; may be used by several threads."""

    def __init__(self, grammar: str, tokenizer: Tokenizer, *, end: int) -> None:
        """Compile a grammar.

        Args:
            grammar: In llguidance's form, such as `json_grammar` and `code_grammar` give.
            tokenizer: Its tokens are what documents are made of.
            end: Token id that ends a document.

        Raises:
            SchemaError: the grammar is too large.
            ConfigError: it is not known which bytes the tokenizer's tokens stand for.
        """
        self.vocab_size = tokenizer.get_vocab_size()
        self.end = end
        self._grammar = grammar
        try:
            known = llguidance.LLTokenizer(tokenizer.to_str(), eos_token=end)
        except ValueError as error:
            raise ConfigError(
                "codec.tokenizer cannot be used with a grammar: it is not known which bytes its "
                f"tokens stand for ({error}). Expected a byte-level BPE, or a tokenizer with "
                "bytes to fall back on; choose another model, or train one (codec.tokenizer null)."
            ) from None
        self._tokenizer = known.with_slices(llguidance.LLTokenizer.json_slices())
        # What matchers learn of their grammar they share, under a lock: each thread has its own.
        self._of_thread = threading.local()
        self._fresh()

    def start(self, num_rows: int) -> ConstrainedRows:
        """Begin `num_rows` documents."""
        return ConstrainedRows(self, [self._fresh() for _ in range(num_rows)])

    def accepts(self, ids: list[int]) -> bool:
        """Tell whether token ids, without an end, spell a whole document."""
        matcher = self._fresh()
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    def forget(self) -> None:
        """Compile anew in this thread: a matcher has come to the limit of what they may learn."""
        self._of_thread.root = None

    def _fresh(self) -> llguidance.LLMatcher:
        root: llguidance.LLMatcher | None = getattr(self._of_thread, "root", None)
        if root is None:
            root = llguidance.LLMatcher(self._tokenizer, self._grammar, log_level=0)
            if root.is_error():
                raise SchemaError(_explain(root.get_error()))
            self._of_thread.root = root
        return root.deep_copy()


class ConstrainedRows:
    """Documents of a batch on their way."""

    def __init__(self, constraint: Constraint, matchers: list[llguidance.LLMatcher]) -> None:
        self._constraint = constraint
        self._matchers = matchers
        self._executor = llguidance.LLExecutor(num_threads=1)
        self._bits = bitmasks.allocate_token_bitmask(len(matchers), constraint.vocab_size)

    def try_accept(self, ids_B: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Go on with these tokens where the grammar allows them; tells where it does, shape [B].

        After the end, it allows the end alone.
        """
        end, known = self._constraint.end, self._constraint.vocab_size  # a model may score more

        def goes_on(matcher: llguidance.LLMatcher, token: int) -> bool:
            if matcher.is_stopped():
                return token == end
            return token < known and matcher.try_consume_tokens([token]) == 1

        return np.array([*map(goes_on, self._matchers, ids_B.tolist())])

    def allowed(self, index_R: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Tokens that may come next in some of the documents: a bit of each, lowest first.

        After the end, the end alone. The array [R, W] is overwritten by the next call.
        """
        bits = self._bits[: len(index_R)]
        bits.fill(0)
        pairs = [(self._matchers[row], place) for place, row in enumerate(index_R.tolist())]
        bitmasks.fill_next_token_bitmask_par(self._executor, pairs, bits)
        bytes_RW = bits.view(np.uint8)
        stuck_R = ~bits.any(axis=1)
        if stuck_R.any():
            # It ends here, is found to be invalid, and is tried again with a new matcher.
            bytes_RW[stuck_R, self._constraint.end // 8] = 1 << self._constraint.end % 8
            self._constraint.forget()
        return bytes_RW

    def accept(self, ids_R: npt.NDArray[np.integer], index_R: npt.NDArray[np.integer]) -> None:
        """Go on with tokens that are allowed, in some of the documents."""
        for row, token in zip(index_R.tolist(), ids_R.tolist(), strict=True):
            if not self._matchers[row].is_stopped():
                self._matchers[row].consume_token(token)

    def select(self, index_B: npt.NDArray[np.integer]) -> None:
        """Only keep these documents."""
        self._matchers = [self._matchers[row] for row in index_B.tolist()]


def json_grammar(json_schema: Mapping[str, Any]) -> str:
    """The grammar of the canonical documents of a schema.

    Raises:
        SchemaError: the schema has something that cannot be enforced while writing.
    """
    schema = {**_enforced(json_schema), "x-guidance": _SPELLING}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    problem = llguidance.LLMatcher.validate_grammar(grammar, None)
    if problem:
        raise SchemaError(_explain(problem))
    return grammar


def code_grammar() -> str:
    """The grammar of Python source text."""
    return llguidance.LLMatcher.grammar_from_lark(python_grammar())


def _enforced(schema: Any) -> Any:
    """The schema as it is enforced: digits after the point as `multipleOf`, no very long limits."""
    if isinstance(schema, list):
        return [_enforced(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    vague = _has_vague_bounds(schema)
    for key, inner in cast("Mapping[str, Any]", schema).items():
        if vague and key in ("minimum", "maximum", DECIMALS_KEY):
            continue
        if key in ("minLength", "maxLength") and isinstance(inner, int) and inner > MAX_LENGTH:
            continue
        if key == DECIMALS_KEY and isinstance(inner, int):
            found["multipleOf"] = float(f"1e-{inner}")
        else:
            # What is listed is data, and names of properties are not keywords.
            found[key] = inner if key in ("enum", "const") else _enforced(inner)
    missed = [] if vague or "multipleOf" in schema else _missed_numbers(schema)
    return {"anyOf": [found, {"enum": missed}]} if missed else found


def _missed_numbers(schema: Mapping[str, Any]) -> list[float]:
    """Numbers within the bounds that the grammar of the bounds leaves out.

    Those are the beginnings of the outer bound, so 0.4 where the largest number is 0.49
    (llguidance 1.9.1 wants all digits of the bound once it has come as far as its last but one).
    """
    if schema.get("type") != "number":
        return []
    low, high = schema.get("minimum"), schema.get("maximum")
    found: list[float] = []
    if isinstance(high, float) and high > 0:
        found += [number for number in _beginnings(high) if low is None or number >= low]
    if isinstance(low, float) and low < 0:
        found += [-number for number in _beginnings(-low) if high is None or -number <= high]
    return found


def _beginnings(bound: float) -> list[float]:
    """The numbers that the first digits of a bound spell, with at least one after the point."""
    whole, _, digits = f"{Decimal(repr(bound)):f}".partition(".")
    return [float(f"{whole}.{digits[:n]}") for n in range(1, len(digits)) if digits[n - 1] != "0"]


def _has_vague_bounds(schema: Mapping[str, Any]) -> bool:
    """Whether numbers lie in a range that cannot be counted out in digits."""
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = [abs(b) for b in (low, high) if isinstance(b, int | float)]
    extreme = any(b > MAX_NUMBER or 0 < b < MIN_FRACTION for b in bounds)
    return extreme or (schema.get("type") == "number" and low is not None and low == high)


def _explain(problem: str) -> str:
    reason = problem.strip().splitlines()[0] if problem.strip() else "unknown"
    return (
        f"The JSON Schema of the documents cannot be enforced while they are written: {reason}. "
        "Expected a schema of draft 2020-12 without recursion over other files; leave out what is "
        "named, or let the schema be inferred (data.schema_path: null)."
    )
