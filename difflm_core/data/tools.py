"""Descriptions of tools in the forms of several collections, and OpenAI functions between them.

| form | arguments | names of types |
|-|-|-|
| `openai` | JSON Schema under `function.parameters` | those of JSON |
| `bfcl` | the same without the wrapping; not strictly JSON Schema | dict, float, tuple, any, ... |
| `toolbench` | `required_parameters` and `optional_parameters`, lists | STRING, NUMBER, ... |
| `seal` | `parameters` by name beside `required` | str, int, float, bool, ... |

What an OpenAI function has no place for goes along in keywords that JSON Schema ignores:
`x-source` of the parameters, `x-type` and `x-fields` of an argument. Converted back to its own
form, a tool is what it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from difflm_core.errors import DataError


class ToolForm(StrEnum):
    """How a collection describes a tool."""

    OPENAI = "openai"
    BFCL = "bfcl"
    TOOLBENCH = "toolbench"
    SEAL = "seal"


# JSON types by the names that the collections use for them, in small letters; None: any type.
TYPE_NAMES: dict[str, str | None] = {
    **dict.fromkeys(("string", "str", "text", "char", "enum", "date", "time", "binary"), "string"),
    **dict.fromkeys(("integer", "int", "long"), "integer"),
    **dict.fromkeys(("number", "float", "double"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("array", "list", "arraylist", "tuple"), "array"),
    **dict.fromkeys(("object", "dict", "hashmap"), "object"),
    **dict.fromkeys(("null", "none"), "null"),
    **dict.fromkeys(("any", ""), None),
}
# The name that a form has for a JSON type; ToolBench knows no whole numbers.
_NAMES: dict[ToolForm, dict[str | None, str]] = {
    ToolForm.BFCL: {
        "string": "string", "integer": "integer", "number": "float", "boolean": "boolean",
        "array": "array", "object": "dict", "null": "null", None: "any",
    },
    ToolForm.TOOLBENCH: {
        "string": "STRING", "integer": "NUMBER", "number": "NUMBER", "boolean": "BOOLEAN",
        "array": "ARRAY", "object": "OBJECT", "null": "NULL", None: "ANY",
    },
    ToolForm.SEAL: {
        "string": "str", "integer": "int", "number": "float", "boolean": "bool",
        "array": "list", "object": "dict", "null": "none", None: "any",
    },
}  # fmt: skip

SOURCE_KEY, TYPE_KEY, FIELDS_KEY = "x-source", "x-type", "x-fields"
# Keywords of JSON Schema that some collections use for something else.
_KEYWORDS: dict[str, type] = {
    "enum": list, "examples": list, "required": list, "items": dict, "properties": dict,
    "format": str, "pattern": str,
}  # fmt: skip
# What OpenAI allows as the name of a function.
MAX_NAME = 64
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]+")

Fields = Mapping[str, Any]


def tool_form(record: Any) -> ToolForm:
    """Tell the form of a tool.

    Raises:
        DataError: it has none of the forms.
    """
    fields = _fields(record, "the tool")
    inner: Any = fields.get("function")
    if isinstance(inner, Mapping):
        if fields.get("type") == "function":
            return ToolForm.OPENAI
        fields = cast("Fields", inner)
    if "required_parameters" in fields and "optional_parameters" in fields:
        return ToolForm.TOOLBENCH
    parameters: Any = fields.get("parameters")
    is_object = isinstance(parameters, Mapping)
    if "name" in fields and (parameters is None or (is_object and "properties" in parameters)):
        return ToolForm.BFCL
    if "api_name" in fields and is_object:
        return ToolForm.SEAL
    found = ", ".join(repr(key) for key in list(fields)[:10]) or "none"
    raise DataError(
        f"found a tool with the keys {found}; expected an OpenAI function ('type', 'function'), a "
        "function of BFCL ('name', 'parameters' with 'properties'), an API of ToolBench "
        "('api_name', 'required_parameters', 'optional_parameters') or a tool of Seal-Tools "
        "('api_name', 'parameters', 'required')"
    )


def json_type(name: Any) -> str | None:
    """The JSON type that a name of a type means; None: any.

    Raises:
        DataError: the name is not known.
    """
    # ToolBench explains some: "DATE (YYYY-MM-DD)".
    plain = name.partition("(")[0].strip().lower() if isinstance(name, str) else None
    if plain not in TYPE_NAMES:
        found = repr(name) if isinstance(name, str) else f"a {type(name).__name__}"
        known = ", ".join(repr(known) for known in TYPE_NAMES if known)
        raise DataError(f"found the type {found} of an argument, expected one of {known}")
    return TYPE_NAMES[plain]


def to_openai_function(record: Any, *, keep_source: bool = True) -> dict[str, Any]:
    """Convert a tool of any form to an OpenAI function.

    Args:
        record: The tool.
        keep_source: Keep what is needed to convert it back, in keywords that begin with `x-`.

    Raises:
        DataError: it has none of the forms, or is not consistent in its own.
    """
    form = tool_form(record)
    convert = {
        ToolForm.OPENAI: _from_openai,
        ToolForm.BFCL: _from_bfcl,
        ToolForm.TOOLBENCH: _from_toolbench,
        ToolForm.SEAL: _from_seal,
    }[form]
    function = convert(cast("Fields", record))
    if not keep_source and "parameters" in function:
        function = {**function, "parameters": _without_source(function["parameters"])}
    return {"type": "function", "function": function}


def from_openai_function(tool: Any, form: ToolForm | str) -> dict[str, Any]:
    """Convert an OpenAI function to another form.

    Args:
        tool: What `to_openai_function` makes, or the content of its `function`.
        form: What to make of it.

    Raises:
        DataError: it is not an OpenAI function.
    """
    form = ToolForm(form)
    fields = _fields(tool, "the tool")
    inner = _fields(fields.get("function", fields), "'function'")
    name = inner.get("name")
    if not isinstance(name, str):
        raise DataError("found an OpenAI function without a 'name', expected one; add it")
    if form is ToolForm.OPENAI:
        return {"type": "function", "function": dict(inner)}
    parameters = dict(_fields(inner.get("parameters") or {}, "'parameters'"))
    source: dict[str, Any] = parameters.pop(SOURCE_KEY, {})
    # The fields and the names of types of another form would say nothing in this one.
    is_own = source.get("form") == form
    kept: dict[str, Any] = dict(source.get("fields", {})) if is_own else {}
    spelling = _Spelling(form, is_own)
    description: dict[str, Any] = {}
    if "description" in inner:
        description["description"] = inner["description"]
    name = source.get("name", name)
    if form is ToolForm.BFCL:
        return _to_bfcl(name, description, inner, parameters, kept, spelling)
    properties = _fields(parameters.get("properties") or {}, "'properties'")
    required = _required(parameters)
    made = {"api_name": name}
    if description:
        made["api_description"] = description["description"]
    if form is ToolForm.SEAL:
        arguments = {
            key: _renamed(entry, spelling, deep=False) for key, entry in properties.items()
        }
        return {**made, "parameters": arguments, "required": required, **kept}
    lists: dict[bool, list[Any]] = {True: [], False: []}
    for key, entry in properties.items():
        argument = {"name": key, **_renamed(entry, spelling, deep=False)}
        argument.setdefault("description", "")
        argument.setdefault("default", "")
        lists[key in required].append(argument)
    return {
        **made, "required_parameters": lists[True], "optional_parameters": lists[False], **kept,
    }  # fmt: skip


def convert_tool(record: Any, form: ToolForm | str, *, keep_source: bool = True) -> dict[str, Any]:
    """Convert a tool of any form to another.

    Args:
        record: The tool.
        form: What to make of it.
        keep_source: As of `to_openai_function`, where an OpenAI function is made.

    Raises:
        DataError: as of `to_openai_function`.
    """
    keep_source = keep_source or form != ToolForm.OPENAI
    function = to_openai_function(record, keep_source=keep_source)
    return from_openai_function(function, form)


# To OpenAI functions --------------------------------------------------------------------------


def _from_openai(record: Fields) -> dict[str, Any]:
    function = dict(cast("Fields", record["function"]))
    if not isinstance(function.get("name"), str):
        raise DataError("found an OpenAI function without a 'name', expected one; add it")
    return function


def _from_bfcl(record: Fields) -> dict[str, Any]:
    is_wrapped = isinstance(record.get("function"), Mapping)
    inner = cast("Fields", record["function"]) if is_wrapped else record
    parameters = _fields(inner.get("parameters") or {"properties": {}}, "'parameters'")
    schema = _json_schema(parameters, ToolForm.BFCL)
    if TYPE_KEY not in schema and "type" not in parameters:
        schema = {"type": "object", **schema}
    fields: dict[str, Any] = {}
    if is_wrapped:
        fields["record"] = {key: value for key, value in record.items() if key != "function"}
    own = ("name", "description", "parameters")
    if extra := {key: value for key, value in inner.items() if key not in own}:
        fields["function"] = extra
    return _function(ToolForm.BFCL, inner, ("name", "description"), schema, fields)


def _from_toolbench(record: Fields) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for key in ("required_parameters", "optional_parameters"):
        items: Any = record[key]
        if not isinstance(items, list):
            raise DataError(f"found {key!r} that is not a list, expected a list of arguments")
        for item in cast("list[Any]", items):
            entry = dict(_fields(item, f"an argument in {key!r}"))
            name = entry.pop("name", None)
            if not isinstance(name, str):
                raise DataError(f"found an argument without a 'name' in {key!r}, expected one")
            if name in properties:
                raise DataError(
                    f"found the argument {name!r} twice, expected each one once; remove one"
                )
            if entry.get("default") == "":  # Says that there is none.
                del entry["default"]
            properties[name] = _json_schema(entry, ToolForm.TOOLBENCH, deep=False)
            if key == "required_parameters":
                required.append(name)
    return _of_api(ToolForm.TOOLBENCH, record, properties, required,
                   ("required_parameters", "optional_parameters"))  # fmt: skip


def _from_seal(record: Fields) -> dict[str, Any]:
    properties = {
        key: _json_schema(_fields(entry, f"the argument {key!r}"), ToolForm.SEAL, deep=False)
        for key, entry in cast("Fields", record["parameters"]).items()
    }
    required = _required(record)
    return _of_api(ToolForm.SEAL, record, properties, required, ("parameters", "required"))


def _of_api(
    form: ToolForm,
    record: Fields,
    properties: dict[str, Any],
    required: list[str],
    own: tuple[str, str],
) -> dict[str, Any]:
    """A function from the parts of an API; `own` are the keys that were read."""
    schema = {"type": "object", "properties": properties, "required": required}
    read = ("api_name", "api_description", *own)
    fields = {key: value for key, value in record.items() if key not in read}
    return _function(form, record, ("api_name", "api_description"), schema, fields)


def _function(
    form: ToolForm,
    fields: Fields,
    keys: tuple[str, str],
    schema: dict[str, Any],
    kept: dict[str, Any],
) -> dict[str, Any]:
    name = fields.get(keys[0])
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"found a tool without a {keys[0]!r}, expected text; name it")
    plain = _NOT_IN_NAMES.sub("_", name).strip("_")[:MAX_NAME] or "tool"
    source: dict[str, Any] = {"form": form.value}
    if plain != name:
        source["name"] = name
    if kept:
        source["fields"] = kept
    described = {"description": fields[keys[1]]} if keys[1] in fields else {}
    return {"name": plain, **described, "parameters": {**schema, SOURCE_KEY: source}}


def _json_schema(entry: Fields, form: ToolForm, *, deep: bool = True) -> dict[str, Any]:
    """An argument with the JSON name of its type, and those of what is inside it if `deep`."""
    typed: dict[str, Any] = {}
    if "type" in entry:
        name: Any = entry["type"]
        if isinstance(name, list):  # Of JSON Schema already; the other forms know one type.
            typed = {"type": name, TYPE_KEY: name}
        else:
            kind = json_type(name)
            typed = {} if kind is None else {"type": kind}
            if kind is None or _NAMES[form][kind] != name:
                typed[TYPE_KEY] = name
    foreign = {k: entry[k] for k, t in _KEYWORDS.items() if not isinstance(entry.get(k, t()), t)}
    if foreign:
        typed[FIELDS_KEY] = foreign
    own = {key: value for key, value in entry.items() if key != "type" and key not in foreign}
    made = {**typed, **own}
    return _inside(made, lambda inner: _json_schema(inner, form)) if deep else made


def _inside(schema: dict[str, Any], convert: Callable[[Fields], dict[str, Any]]) -> dict[str, Any]:
    """A schema whose parts are converted."""
    made = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), Mapping):
            made[key] = convert(made[key])
    if isinstance(made.get("properties"), Mapping):
        parts = cast("Fields", made["properties"]).items()
        made["properties"] = {
            key: convert(_fields(part, f"the argument {key!r}")) for key, part in parts
        }
    return made


def _without_source(schema: Fields) -> dict[str, Any]:
    ours = (SOURCE_KEY, TYPE_KEY, FIELDS_KEY)
    return _inside({k: v for k, v in schema.items() if k not in ours}, _without_source)


# From OpenAI functions ------------------------------------------------------------------------


def _to_bfcl(
    name: str,
    description: dict[str, Any],
    inner: Fields,
    parameters: dict[str, Any],
    kept: dict[str, Any],
    spelling: _Spelling,
) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, **description}
    if "parameters" in inner:
        made["parameters"] = _renamed(parameters, spelling, deep=True)
    made |= kept.get("function", {})
    return {**kept["record"], "function": made} if "record" in kept else made


@dataclass(frozen=True)
class _Spelling:
    """How types are named: as a form does, or, where a tool came from it, as they were."""

    form: ToolForm
    is_own: bool


def _renamed(entry: Any, spelling: _Spelling, *, deep: bool) -> dict[str, Any]:
    """An argument with the name that a form has for its type."""
    made = dict(_fields(entry, "an argument"))
    spelled = made.pop(TYPE_KEY, None) if spelling.is_own else None
    made.pop(TYPE_KEY, None)
    foreign: dict[str, Any] = made.pop(FIELDS_KEY, {})
    kind: Any = made.pop("type", None)
    if isinstance(kind, list):  # A type or null: the forms know one type of an argument.
        kind = next((item for item in cast("list[Any]", kind) if item != "null"), "null")
    if spelled is None:
        spelled = _NAMES[spelling.form][None if kind is None else json_type(kind)]
    made = {"type": spelled, **made, **foreign}
    return _inside(made, lambda inner: _renamed(inner, spelling, deep=True)) if deep else made


def _fields(value: Any, what: str) -> Fields:
    if not isinstance(value, Mapping):
        raise DataError(f"found {type(value).__name__} as {what}, expected an object")
    return cast("Fields", value)


def _required(fields: Fields) -> list[str]:
    found: Any = fields.get("required") or []
    if not isinstance(found, list):
        raise DataError("found 'required' that is not a list, expected a list of names")
    return list(cast("list[str]", found))
