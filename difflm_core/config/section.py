"""What every section of the configuration is."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict

# For `Field(json_schema_extra=...)` of a setting that changes how a stage works, never its result.
NOT_IN_FINGERPRINT: dict[str, Any] = {"fingerprint": False}


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    def fingerprint_values(self) -> dict[str, Any]:
        """Return the values that decide a result, as JSON values."""
        values = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            inner = getattr(self, name)
            if isinstance(extra, dict) and extra.get("fingerprint") is False:
                del values[name]
            elif isinstance(inner, Section):
                values[name] = inner.fingerprint_values()
        return values


def _as_sequence(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return (value,)
    if isinstance(value, list):
        # YAML reads an unquoted ? in a list as an empty mapping; as a text it can only mean "?".
        return ["?" if item == {None: None} else item for item in cast("list[Any]", value)]
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_sequence)]
