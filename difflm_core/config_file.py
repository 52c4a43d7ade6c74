"""Reading, writing and explaining a `RunConfig`: YAML, overrides, messages, documentation."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeGuard, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from difflm_core import storage
from difflm_core.config import RunConfig, Section
from difflm_core.config.presets import DOCUMENTS, PRETRAINED
from difflm_core.errors import ConfigError

_KeyPath = tuple[str, ...]
_MISSING = object()


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `1e-3` is a number, and a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(path: str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration: defaults, then the YAML file, then the overrides.

    Args:
        path: path or URI of a YAML file; None takes the defaults alone.
        overrides: `section.key=value` texts; a value is read as YAML.

    Raises:
        ConfigError: the file cannot be read, or a key or a value is wrong. The message names the
            file, the key, the value, what was expected, and the nearest known key.
    """
    origin = path or "the configuration"
    return _overridden(_read_yaml(path) if path else {}, overrides, origin)


def load_config_text(text: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration from YAML, or from the path or URI of a YAML file.

    Raises:
        ConfigError: as `load_config`.
    """
    if "\n" not in text and ": " not in text:
        return load_config(text.strip() or None, overrides)
    origin = "the configuration"
    return _overridden(_parse_yaml(text, origin), overrides, origin)


def _overridden(values: dict[str, Any], overrides: Sequence[str], origin: str) -> RunConfig:
    from_override: set[_KeyPath] = set()
    for override in overrides:
        keys, value = parse_override(override)
        _assign(values, keys, value, override)
        from_override.add(keys)
    return build_config(values, origin, from_override)


def build_config(
    values: Mapping[str, Any],
    origin: str = "the configuration",
    from_override: Iterable[_KeyPath] = (),
) -> RunConfig:
    """Validate nested `values`; `origin` and `from_override` only word the messages.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    sections = {
        key: {} if value is None and _is_section(key) else value for key, value in values.items()
    }
    try:
        return RunConfig.model_validate(sections)
    except ValidationError as error:
        overridden = set(from_override)
        lines = [_explain(dict(e), sections, origin, overridden) for e in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def parse_override(text: str) -> tuple[_KeyPath, Any]:
    """Split `section.key=value` into its key path and its value (read as YAML).

    Raises:
        ConfigError: the text has another form.
    """
    key, separator, raw = text.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not separator or not all(keys):
        raise ConfigError(
            f"--set {text}: expected section.key=value, such as --set generation.num_rows=1000."
        )
    raw = raw.strip()
    try:
        value = yaml.load(raw, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        value = raw
    # A lone "?", "a: b" or "|" is YAML for something else, but on a command line it is text.
    if (isinstance(value, dict) and not raw.startswith("{")) or raw[:1] in ("|", ">", "#", "&"):
        value = raw
    return keys, value


def to_yaml(config: BaseModel) -> str:
    """Write a configuration as YAML, every key included."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one level: `{"a": {"b": 1}}` into `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if _is_mapping(value) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = storage.read_text(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such configuration file. Expected the path of a YAML file."
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a directory. Expected a YAML file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: this is not a text file. Expected YAML in UTF-8.") from None
    return _parse_yaml(text, path)


def _parse_yaml(text: str, path: str) -> dict[str, Any]:
    try:
        values: Any = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise ConfigError(f"{path}:{where} this is not valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{path}: this is not valid YAML: {first}.") from None
    if values is None:
        return {}
    if not _is_mapping(values):
        raise ConfigError(
            f"{path}: found a {_kind(values)} at the top level, expected sections such as `data:`."
        )
    return dict(values)


def _assign(values: dict[str, Any], keys: _KeyPath, value: Any, override: str) -> None:
    level = values
    for depth, key in enumerate(keys[:-1]):
        inner = level.get(key)
        if inner is not None and not _is_mapping(inner):
            raise ConfigError(
                f"--set {override}: {'.'.join(keys[: depth + 1])} is a value, not a section."
            )
        level[key] = dict(inner or {})
        level = cast("dict[str, Any]", level[key])
    level[keys[-1]] = value


# ------------------------------------------------------------------------- explaining an error


def _is_section(key: object) -> bool:
    field = RunConfig.model_fields.get(str(key))
    return field is not None and _section_type(field) is not None


def _section_type(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def known_keys() -> dict[str, FieldInfo]:
    """Every key path of the configuration that takes a value, with its field."""
    keys: dict[str, FieldInfo] = {}
    for name, field in RunConfig.model_fields.items():
        section = _section_type(field)
        if section is None:
            keys[name] = field
        else:
            keys.update({f"{name}.{key}": inner for key, inner in section.model_fields.items()})
    return keys


def _explain(
    error: dict[str, Any], values: Mapping[str, Any], origin: str, overridden: set[_KeyPath]
) -> str:
    location = tuple(str(part) for part in error["loc"])
    fields = known_keys()
    keys = location
    # pydantic adds positions in sequences and branches of unions to the location: cut them off.
    while len(keys) > 1 and ".".join(keys) not in fields and error["type"] != "extra_forbidden":
        keys = keys[:-1]
    path = ".".join(keys)
    by_override = any(keys == known[: len(keys)] for known in overridden)
    where = f"--set {path}" if by_override else f"{origin}: {path}"
    if not keys:  # settings of several sections that do not go together
        where = origin
    if error["type"] == "extra_forbidden":
        return f"{where} is not a known key.{_suggest(path, fields)}"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}."
    found = _lookup(values, keys)
    shown = "" if found is _MISSING else f" = {_shorten(found)}"
    field = fields.get(path)
    if field is not None:
        return f"{where}{shown}: expected {expected(field)}."
    if _is_section(path):
        return f"{where}{shown}: expected a section with keys, found a {_kind(found)}."
    return f"{where}{shown}: {error['msg']}."


def _suggest(path: str, fields: Mapping[str, FieldInfo]) -> str:
    section, _, name = path.rpartition(".")
    siblings = [key for key in fields if key.rpartition(".")[0] == section]
    if not section:
        siblings = list(RunConfig.model_fields)
    near = [key for key in fields if key.rpartition(".")[2] == name]
    near = near or difflib.get_close_matches(path, siblings, n=1, cutoff=0.6)
    near = near or difflib.get_close_matches(path, list(fields), n=1, cutoff=0.7)
    if near:
        return f" Did you mean {near[0]}?"
    inside = f" of {section}" if section else ""
    return f" Known keys{inside}: {', '.join(key.rpartition('.')[2] for key in siblings)}."


def _lookup(values: Mapping[str, Any], keys: _KeyPath) -> Any:
    found: Any = values
    for key in keys:
        if not _is_mapping(found) or key not in found:
            return _MISSING
        found = found[key]
    return found


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: Any) -> str:
    names = {str: "text", int: "number", float: "number", bool: "boolean", list: "list"}
    return names.get(type(value), type(value).__name__)


def expected(field: FieldInfo) -> str:
    """Say in words which values a field takes."""
    text = _expected_type(field.annotation)
    bounds = [
        f"{word} {getattr(rule, attribute)}"
        for rule in field.metadata
        for attribute, word in (
            ("ge", "at least"),
            ("gt", "above"),
            ("le", "at most"),
            ("lt", "below"),
        )
        if getattr(rule, attribute, None) is not None
    ]
    lengths = {getattr(rule, "max_length", None) for rule in field.metadata} - {None}
    if lengths == {1}:
        text = text.replace("text", "one character")
    if field.examples:
        text = f"{text} such as {', '.join(str(example) for example in field.examples)}"
    if not bounds:
        return text
    base, separator, tail = text.partition(" or null")
    return f"{base} {' and '.join(bounds)}{separator}{tail}"


def _expected_type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(annotation))
    if origin in (types.UnionType, typing.Union):
        parts = [_expected_type(part) for part in get_args(annotation)]
        return " or ".join(parts)
    if origin is tuple:
        return f"a list of {_expected_type(get_args(annotation)[0])}s"
    if origin is typing.Annotated:
        return _expected_type(get_args(annotation)[0])
    names = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


# ------------------------------------------------------------------------------- documentation

_INTRODUCTION = """\
<!-- Generated by `make docs` from difflm_core/config/. Edit the descriptions there. -->
# Configuration

One YAML file describes a run. Precedence: defaults < YAML < `--set section.key=value`. Unknown
keys are errors. `difflm config show run.yaml` prints the whole configuration a file leads to,
`difflm config validate run.yaml` only checks it. All sections but `runtime` (and `output`) belong
to the fingerprint of the stages that read them: a finished stage is reused only while they stay
the same.

```yaml
data:
  source: my_table.csv
  target: income
generation:
  num_rows: 10000
output: runs/my_table
```
"""


def config_markdown() -> str:
    """Write the reference of all keys as Markdown (`docs/config.md`)."""
    parts = [_INTRODUCTION]
    top: list[tuple[str, FieldInfo]] = []
    for name, field in RunConfig.model_fields.items():
        section = _section_type(field)
        if section is None:
            top.append((name, field))
            continue
        summary = (section.__doc__ or "").strip()
        parts.append(f"## {name}\n\n{summary}\n\n{_table(section.model_fields.items())}")
    parts.insert(1, f"## Top level\n\n{_table(top)}")
    parts.append(_presets())
    return "\n".join(parts)


def _presets() -> str:
    """The defaults of documents, where they are others."""
    kinds = (
        ("data.kind is json or code", DOCUMENTS),
        ("also vae.decoder is set", PRETRAINED),
    )
    rows = ["## Other defaults for documents", "", "| when | key | default |", "|-|-|-|"]
    for when, preset in kinds:
        for key, value in flatten(preset).items():
            rows.append(f"| {when} | `{key}` | `{value}` |")
    return "\n".join(rows) + "\n"


def _table(fields: Iterable[tuple[str, FieldInfo]]) -> str:
    rows = ["| key | default | takes | meaning |", "|-|-|-|-|"]
    for name, field in fields:
        default = field.get_default(call_default_factory=False)
        if isinstance(default, tuple):
            default = list(cast("tuple[Any, ...]", default))
        shown = "null" if default is None else str(default)
        takes = expected(field).replace("|", "\\|")
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | `{shown}` | {takes} | {meaning} |")
    return "\n".join(rows) + "\n"
