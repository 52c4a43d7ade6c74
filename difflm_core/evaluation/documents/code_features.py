"""Pieces of Python code as rows of features: their size, and what their syntax trees hold."""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

from difflm_core.data.document_form import parse_python

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


def code_features(text: str) -> dict[str, Any]:
    """The features of a piece of code; one that does not parse has only those of its text."""
    lines = text.split("\n")
    found: dict[str, Any] = {
        "characters": len(text),
        "lines": len(lines),
        "longest line": max(len(line) for line in lines),
        "comment lines": sum(line.lstrip().startswith("#") for line in lines),
    }
    tree = parse_python(text)
    found["parses"] = "no" if tree is None else "yes"
    if tree is None:
        return found
    nodes = list(ast.walk(tree))
    kinds = Counter(type(node) for node in nodes)
    for name, types in _COUNTED.items():
        found[name] = sum(kinds[kind] for kind in types)
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    arguments = [argument for function in functions for argument in _arguments(function.args)]
    found["arguments of functions"] = len(arguments)
    found["annotated arguments"] = sum(a.annotation is not None for a in arguments)
    found["docstrings"] = sum(ast.get_docstring(f) is not None for f in functions)
    found["distinct names"] = len({node.id for node in nodes if isinstance(node, ast.Name)})
    found["nesting"] = _nesting(tree)
    found["first statement"] = type(tree.body[0]).__name__ if tree.body else "nothing"
    return found


def _arguments(found: ast.arguments) -> list[ast.arg]:
    starred = [argument for argument in (found.vararg, found.kwarg) if argument is not None]
    return [*found.posonlyargs, *found.args, *found.kwonlyargs, *starred]


def _nesting(tree: ast.AST) -> int:
    """Depth of the tree; without recursion, since generated code may nest deep."""
    deepest, level = 0, [tree]
    while level:
        deepest += 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return deepest
