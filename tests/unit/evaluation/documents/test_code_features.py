import pytest

from difflm_core.evaluation.documents.code_features import code_features

SOURCE = '''# A comment
import math

class Box:
    def area(self, side: float, *rest, scale=1, **more: int) -> float:
        """Area."""
        if side > 0:
            return math.sqrt(side) * scale
        for x in [i for i in rest]:
            side += x
        return side

async def f(a, /, *, b: int):
    assert a
'''


def test_what_a_piece_of_code_holds() -> None:
    found = code_features(SOURCE)
    expected = {
        "characters": len(SOURCE),
        "lines": 15,
        "longest line": 70,
        "comment lines": 1,
        "parses": "yes",
        "functions": 2,
        "classes": 1,
        "loops": 1,
        "branches": 1,
        "returns": 2,
        "calls": 1,
        "imports": 1,
        "comprehensions": 1,
        "comparisons": 1,
        "assignments": 1,
        "numbers and texts": 3,
        "assertions": 1,
        "arguments of functions": 7,
        "annotated arguments": 3,
        "docstrings": 1,
        "first statement": "Import",
    }
    assert {name: found[name] for name in expected} == expected
    # float, int, math, side, scale, x, i, rest, a
    assert found["distinct names"] == 9


def test_code_that_does_not_parse_has_the_features_of_its_text() -> None:
    assert code_features("def f(:\n") == {
        "characters": 8,
        "lines": 2,
        "longest line": 7,
        "comment lines": 0,
        "parses": "no",
    }


@pytest.mark.parametrize(("source", "depth"), [("", 1), ("x", 4), ("f(g(x))", 6)])
def test_nesting(source, depth) -> None:
    assert code_features(source)["nesting"] == depth


def test_code_that_nests_deep_does_not_end_the_recursion() -> None:
    assert code_features("x = " + "-" * 5000 + "1")["parses"] in ("yes", "no")
    assert code_features("+".join(["1"] * 900))["nesting"] > 900
