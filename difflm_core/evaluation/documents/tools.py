"""Tool descriptions: whether their arguments are described correctly.

Three forms are known: OpenAI functions (also those of BFCL), ToolBench APIs, and Seal-Tools
records. Each becomes the same list of arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

# JSON types by the names that tool descriptions use for them.
TYPES: dict[str, str] = {
    **dict.fromkeys(
        ("str", "string", "text", "char", "enum", "date", "time", "datetime"), "string"
    ),
    **dict.fromkeys(("int", "integer", "long"), "integer"),
    **dict.fromkeys(("float", "number", "double", "decimal"), "number"),
    **dict.fromkeys(("bool", "boolean"), "boolean"),
    **dict.fromkeys(("list", "array", "tuple"), "array"),
    **dict.fromkeys(("dict", "object", "map", "json"), "object"),
    "any": "any",
}


@dataclass(frozen=True)
class Argument:
    """One argument of a tool.

    Attributes:
        name: Its name.
        type: JSON type; None: the declared type is unknown, or none is declared.
        required: Whether a call must give it.
        default: Value of a call that does not; `NO_DEFAULT` if there is none.
        choices: Values that it may take; empty: any.
    """

    name: str
    type: str | None
    required: bool
    default: Any
    choices: tuple[Any, ...] = ()


NO_DEFAULT: Any = object()


@dataclass(frozen=True)
class Tool:
    """A tool: its name, its arguments, and required names that are no arguments."""

    name: str
    arguments: tuple[Argument, ...]
    unknown_required: tuple[str, ...] = ()


@dataclass
class ArgumentCheck:
    """How many arguments are described correctly.

    Attributes:
        num_tools: Tools that were understood.
        num_arguments: Their arguments.
        num_correct: Arguments without a problem.
        problems: Number of each problem.
    """

    num_tools: int = 0
    num_arguments: int = 0
    num_correct: int = 0
    problems: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def share(self) -> float:
        """Share of correct arguments; 1 if there are none."""
        return self.num_correct / self.num_arguments if self.num_arguments else 1.0


def read_tool(record: Any) -> Tool | None:
    """Understand a tool description; None if it has none of the known forms."""
    if not isinstance(record, Mapping):
        return None
    fields = cast("Mapping[str, Any]", record)
    if isinstance(fields.get("function"), Mapping):
        fields = cast("Mapping[str, Any]", fields["function"])
    if "required_parameters" in fields and "optional_parameters" in fields:
        return _toolbench(fields)
    parameters = fields.get("parameters")
    if not isinstance(parameters, Mapping):
        return None
    inner = cast("Mapping[str, Any]", parameters)
    # The type of an OpenAI schema is a text; in Seal-Tools, `type` would be an argument.
    if isinstance(inner.get("type"), str):
        properties = inner.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        return _with_properties(fields, properties, inner.get("required", ()))
    return _with_properties(fields, cast("Any", parameters), fields.get("required", ()))


def _toolbench(fields: Mapping[str, Any]) -> Tool:
    arguments: list[Argument] = []
    for key, required in (("required_parameters", True), ("optional_parameters", False)):
        items = fields[key]
        for item in cast("list[Any]", items) if isinstance(items, list) else ():
            if isinstance(item, Mapping):
                entry = cast("Mapping[str, Any]", item)
                default = entry.get("default", NO_DEFAULT)
                kind = TYPES.get(str(entry.get("type", "")).lower().split(" ")[0])
                name = str(entry.get("name", ""))
                # An empty default says that there is none.
                default = NO_DEFAULT if default in ("", None, []) else default
                arguments.append(Argument(name, kind, required, default))
    return Tool(str(fields.get("api_name", "")), tuple(arguments))


def _with_properties(fields: Mapping[str, Any], properties: Any, required: Any) -> Tool:
    names = [str(name) for name in required] if isinstance(required, list) else []
    arguments: list[Argument] = []
    for name, entry in cast("Mapping[str, Any]", properties).items():
        inner: Mapping[str, Any] = cast("Any", entry) if isinstance(entry, Mapping) else {}
        kind = _type_of(inner.get("type"))
        choices = inner.get("enum")
        arguments.append(
            Argument(
                name,
                kind,
                name in names,
                inner.get("default", NO_DEFAULT),
                tuple(choices) if isinstance(choices, list) else (),
            )
        )
    known = {argument.name for argument in arguments}
    unknown = tuple(name for name in names if name not in known)
    name = fields.get("name", fields.get("api_name", ""))
    return Tool(str(name), tuple(arguments), unknown)


def _type_of(declared: Any) -> str | None:
    """The JSON type of a declaration, which may list several of them; None: it is not known."""
    if not isinstance(declared, list):
        return TYPES.get(str(declared).lower())
    names = [str(name).lower() for name in cast("list[Any]", declared)]
    kinds = {TYPES.get(name) for name in names if name != "null"}
    if not kinds or None in kinds:
        return None
    return kinds.pop() if len(kinds) == 1 else "any"


def check_arguments(records: Sequence[Any]) -> ArgumentCheck:
    """Check the arguments of tools; records that are no tools are left out."""
    check = ArgumentCheck()
    for record in records:
        tool = read_tool(record)
        if tool is None:
            continue
        check.num_tools += 1
        for problem in ["required, but no argument"] * len(tool.unknown_required):
            check.num_arguments += 1
            check.problems[problem] = check.problems.get(problem, 0) + 1
        seen: set[str] = set()
        for argument in tool.arguments:
            check.num_arguments += 1
            problem = _problem(argument, seen)
            seen.add(argument.name)
            if problem is None:
                check.num_correct += 1
            else:
                check.problems[problem] = check.problems.get(problem, 0) + 1
    return check


def _problem(argument: Argument, seen: set[str]) -> str | None:
    if not argument.name.strip():
        return "no name"
    if argument.name in seen:
        return "a name twice"
    if argument.type is None:
        return "no known type"
    if argument.default is not NO_DEFAULT and not _has_type(argument.default, argument.type):
        return "default of another type"
    if any(not _has_type(choice, argument.type) for choice in argument.choices):
        return "choice of another type"
    if argument.choices and _is_other(argument):
        return "default that is no choice"
    return None


def _is_other(argument: Argument) -> bool:
    """Whether a single default is none of the choices; a list chooses among them by its items."""
    if argument.default is NO_DEFAULT or argument.default is None:
        return False
    chosen: Any = argument.default if isinstance(argument.default, list) else [argument.default]
    return not {str(value) for value in chosen} <= {str(value) for value in argument.choices}


def _has_type(value: Any, kind: str) -> bool:
    """Whether a value is of a JSON type; numbers and truth values may be spelled as text."""
    if value is None or kind == "any":
        return True
    if kind == "boolean":
        return isinstance(value, bool) or str(value).lower() in ("true", "false", "0", "1")
    if kind in ("integer", "number"):
        if isinstance(value, bool):
            return False
        try:
            number = float(value)
        except (TypeError, ValueError):
            return False
        return kind == "number" or number == int(number) if abs(number) < 1e300 else False
    expected: dict[str, type] = {"array": list, "object": dict}
    if kind in expected:  # many descriptions spell them as text
        return isinstance(value, expected[kind] | str)
    return not isinstance(value, list | dict)
