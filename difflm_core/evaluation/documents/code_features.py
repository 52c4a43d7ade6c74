"""Pieces of Python code as rows of features: their size, and what their syntax trees hold."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from typing import Any

_COUNTED: dict[str, tuple[type[ast.AST], ...]] = {
    "functions": (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda),
    "classes": (ast.ClassDef,),
    "loops": (ast.For, ast.While, ast.AsyncFor),
    "branches": (ast.If, ast.IfExp, ast.Match),
    "returns": (ast.Return,),
    "calls": (ast.Call,),
    "imports": (ast.Import, ast.ImportFrom),
    "comprehensions": (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
    "comparisons": (ast.Compare,),
    "assignments": (ast.Assign, ast.AugAssign, ast.AnnAssign),
    "numbers and texts": (ast.Constant,),
    "assertions": (ast.Assert,),
}


def parse_quietly(text: str) -> ast.Module | None:
    """The syntax tree of a source text; None if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def code_features(text: str) -> dict[str, Any]:
    """The features of a piece of code; one that does not parse has only those of its text."""
    lines = text.split("\n")
    found: dict[str, Any] = {
        "characters": len(text),
        "lines": len(lines),
        "longest line": max(len(line) for line in lines),
        "comment lines": sum(line.lstrip().startswith("#") for line in lines),
    }
    tree = parse_quietly(text)
    found["parses"] = "no" if tree is None else "yes"
    if tree is None:
        return found
    nodes = list(ast.walk(tree))
    kinds = Counter(type(node) for node in nodes)
    for name, types in _COUNTED.items():
        found[name] = sum(kinds[kind] for kind in types)
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    found["arguments of functions"] = sum(len(f.args.args) for f in functions)
    found["annotated arguments"] = sum(
        argument.annotation is not None for f in functions for argument in f.args.args
    )
    found["docstrings"] = sum(ast.get_docstring(f) is not None for f in functions)
    found["distinct names"] = len({node.id for node in nodes if isinstance(node, ast.Name)})
    found["nesting"] = _nesting(tree)
    found["first statement"] = type(tree.body[0]).__name__ if tree.body else "nothing"
    return found


def _nesting(tree: ast.AST) -> int:
    """Depth of the tree; without recursion, since generated code may nest deep."""
    deepest, level = 0, [tree]
    while level:
        deepest += 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return deepest
