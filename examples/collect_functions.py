"""Collect the functions of Python files as JSON Lines, a corpus for `data.kind: code`.

    python examples/collect_functions.py src/ functions.jsonl
    python examples/collect_functions.py --standard-library functions.jsonl.gz

The files are parsed, never run. Each function is taken once, without its indentation. What it finds
in the standard library depends on the version of Python.
"""

import argparse
import ast
import gzip
import json
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

# Tests and generated tables of the standard library, and what others have put beside it.
LEFT_OUT = {
    *("encodings", "idlelib", "lib2to3", "pydoc_data", "test", "tests"),
    *("dist-packages", "site-packages"),
}


def functions_of(folder: Path, longest: int) -> Iterator[tuple[str, str]]:
    """Path and source text of each function of at most `longest` characters."""
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        if LEFT_OUT & set(place.parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (SyntaxError, UnicodeDecodeError) as error:
            print(f"{path} is left out: {error}", file=sys.stderr)
            continue
        # A file with a notice of its own may have another licence than those beside it.
        if "copyright" in text.lower() and folder == Path(sysconfig.get_path("stdlib")):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
                code = textwrap.dedent("\n".join(lines))
                if len(code) <= longest and _parses(code):
                    yield place.as_posix(), code


def _parses(code: str) -> bool:
    """Tell whether the function still is one: its strings may have lines at the margin."""
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def main() -> None:
    """Write one JSON object for each function: `file` and `code`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="folder of Python files")
    parser.add_argument("output", type=Path, help="file to write: .jsonl, or .jsonl.gz")
    parser.add_argument("--standard-library", action="store_true", help="instead of a folder")
    parser.add_argument("--longest", type=int, default=400, metavar="N", help="in characters")
    options = parser.parse_args()
    if (options.folder is None) != options.standard_library:
        parser.error("name either a folder or --standard-library")
    folder = options.folder or Path(sysconfig.get_path("stdlib"))
    found = {code: place for place, code in functions_of(folder, options.longest)}
    lines = [json.dumps({"file": place, "code": code}) for code, place in found.items()]
    data = ("\n".join(lines) + "\n").encode()
    if options.output.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    options.output.write_bytes(data)
    print(f"{len(found):,} functions in {options.output}")


if __name__ == "__main__":
    main()
