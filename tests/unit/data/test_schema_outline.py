"""A JSON Schema in lines for a person."""

from difflm_core.data.schema_outline import outline


def test_each_part_has_a_line_without_values():
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["secret", "other"]},
            "name": {"type": "string", "minLength": 2, "maxLength": 9},
            "price": {"type": "number", "minimum": 0, "maximum": 5, "x-decimals": 2},
            "day": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
            "extra": {
                "type": "object",
                "patternProperties": {"^.{1,4}$": {"const": 1}},
                "minProperties": 2,
                "maxProperties": 2,
            },
        },
        "required": ["kind", "name"],
    }
    assert outline(schema) == [
        "document  object",
        "  kind    one of 2 values",
        "  name    text of 2 to 9 characters",
        "  price   number from 0 to 5, 2 decimals, optional",
        "  day     text of the form date or null, optional",
        "  tags    list of 0 to 3 items, optional",
        "    []    true or false",
        "  extra   map of 2 keys, optional",
        "    *     one value",
    ]


def test_a_recursive_schema_ends():
    schema = {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }
    lines = outline(schema)
    assert len(lines) == 7
    assert lines[0] == "document          object"
    assert lines[-1] == "            next  object, optional ..."


def test_a_part_that_may_be_anything():
    assert outline({}) == ["document  anything"]
