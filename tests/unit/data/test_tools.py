"""Descriptions of tools between the forms of collections: nothing is lost on the way back."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from difflm_core.data.tools import (
    ToolForm,
    convert_tool,
    from_openai_function,
    json_type,
    to_openai_function,
    tool_form,
)
from difflm_core.errors import DataError

TOOLBENCH = {
    "category_name": "Weather",
    "tool_name": "Sky",
    "api_name": "forecast/by city",
    "api_description": "Forecast of a city",
    "required_parameters": [
        {"name": "city", "type": "STRING", "description": "Name", "default": "Bergen"}
    ],
    "optional_parameters": [
        {"name": "days", "type": "NUMBER", "description": "", "default": ""},
        {"name": "from", "type": "DATE (YYYY-MM-DD)", "description": "First day", "default": ""},
    ],
    "method": "GET",
}
SEAL = {
    "api_name": "findTherapy",
    "api_description": "Find a therapy",
    "field": "Health/Therapy",
    "parameters": {
        "kind": {"type": "str", "description": "Its kind", "examples": "music, dance"},
        "weeks": {"type": "int", "description": "How long", "unit": "weeks"},
        "budget": {"type": "float", "description": "At most"},
    },
    "required": ["weeks", "kind"],
    "responses": {"name": {"type": "str", "description": "What was found"}},
}
BFCL = {
    "source": "simple_python",
    "function": {
        "name": "math.plot",
        "description": "Plot points",
        "parameters": {
            "type": "dict",
            "properties": {
                "points": {"type": "array", "items": {"type": "tuple"}},
                "style": {
                    "type": "dict",
                    "properties": {"width": {"type": "float", "default": 1.5}},
                    "required": ["width"],
                },
                "label": {"type": "any", "description": "Anything"},
                "x-type": {"type": "String", "description": "A name like one of ours"},
            },
            "required": ["points"],
        },
    },
}
OPENAI = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": ["number", "null"]}, "b": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
OWN = {
    ToolForm.TOOLBENCH: TOOLBENCH,
    ToolForm.SEAL: SEAL,
    ToolForm.BFCL: BFCL,
    ToolForm.OPENAI: OPENAI,
}


def properties_of(tool):
    return tool["function"]["parameters"]["properties"]


@pytest.mark.parametrize("form", ToolForm)
def test_the_form_is_found_and_comes_back(form):
    before = copy.deepcopy(OWN[form])
    assert tool_form(OWN[form]) == form
    assert from_openai_function(to_openai_function(OWN[form]), form) == before
    assert OWN[form] == before


@pytest.mark.parametrize("record", OWN.values(), ids=[*OWN])
@pytest.mark.parametrize("form", ToolForm)
def test_every_form_becomes_every_other(record, form):
    made = convert_tool(record, form)
    assert tool_form(made) == form
    names = set(properties_of(to_openai_function(record)))
    assert set(properties_of(to_openai_function(made))) == names
    Draft202012Validator.check_schema(to_openai_function(made)["function"]["parameters"])


def test_toolbench_as_a_function():
    assert to_openai_function(TOOLBENCH, keep_source=False) == {
        "type": "function",
        "function": {
            "name": "forecast_by_city",
            "description": "Forecast of a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name", "default": "Bergen"},
                    "days": {"type": "number", "description": ""},
                    "from": {"type": "string", "description": "First day"},
                },
                "required": ["city"],
            },
        },
    }


def test_types_inside_arguments_are_named_too():
    made = properties_of(to_openai_function(BFCL, keep_source=False))
    assert made["points"] == {"type": "array", "items": {"type": "array"}}
    assert made["style"]["type"] == "object"
    assert made["style"]["properties"] == {"width": {"type": "number", "default": 1.5}}
    assert made["label"] == {"description": "Anything"}
    assert made["x-type"] == {"type": "string", "description": "A name like one of ours"}


def test_what_another_form_has_no_place_for_is_left_out():
    made = convert_tool(TOOLBENCH, "seal")
    assert made == {
        "api_name": "forecast/by city",
        "api_description": "Forecast of a city",
        "parameters": {
            "city": {"type": "str", "description": "Name", "default": "Bergen"},
            "days": {"type": "float", "description": ""},
            "from": {"type": "str", "description": "First day"},
        },
        "required": ["city"],
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [("STRING", "string"), ("Boolean", "boolean"), ("HashMap", "object"), ("long", "integer"),
     ("TIME (24-hour HH:MM)", "string"), ("any", None), ("", None)],
)  # fmt: skip
def test_names_of_types(name, kind):
    assert json_type(name) == kind


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "found list as the tool, expected an object"),
        ({"title": "x"}, "found a tool with the keys 'title'; expected an OpenAI function"),
        ({"name": "x", "parameters": 3}, "found a tool with the keys 'name', 'parameters'"),
        (
            {"api_name": "x", "parameters": {"a": {"type": "number of"}}},
            "found the type 'number of' of an argument, expected one of 'string', 'str'",
        ),
        ({"api_name": " ", "parameters": {}}, "found a tool without a 'api_name', expected text"),
        ({"type": "function", "function": {}}, "found an OpenAI function without a 'name'"),
        (
            {**TOOLBENCH, "optional_parameters": TOOLBENCH["required_parameters"]},
            "found the argument 'city' twice, expected each one once",
        ),
        (
            {**TOOLBENCH, "required_parameters": {}},
            "found 'required_parameters' that is not a list",
        ),
        ({**SEAL, "required": "kind"}, "found 'required' that is not a list"),
        ({**SEAL, "parameters": {"a": "text"}}, "found str as the argument 'a'"),
    ],
)
def test_what_is_no_tool_is_explained(record, message):
    with pytest.raises(DataError) as error:
        to_openai_function(record)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_long_or_strange_name_becomes_one_that_is_allowed_and_comes_back():
    for name in ("é/ü", "a" * 100, "/"):
        tool = to_openai_function({**SEAL, "api_name": name})
        assert 1 <= len(tool["function"]["name"]) <= 64
        assert tool["function"]["name"].isascii()
        assert from_openai_function(tool, "seal")["api_name"] == name


word = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
argument_type = st.sampled_from(["str", "int", "float", "bool", "list", "dict", "Any", "STRING"])
argument = st.fixed_dictionaries(
    {"type": argument_type, "description": st.text(max_size=10)},
    optional={
        "default": st.one_of(st.integers(), st.text(min_size=1, max_size=5), st.booleans()),
        "examples": st.one_of(st.text(max_size=5), st.lists(st.integers(), max_size=2)),
        "x-note": st.text(max_size=3),
    },
)


@given(st.dictionaries(word, argument, max_size=4), st.data())
def test_any_tool_of_seal_or_toolbench_comes_back(arguments, data):
    required = data.draw(st.permutations(list(arguments)))[: len(arguments) // 2]
    name = data.draw(word.filter(str.strip))
    seal = {"api_name": name, "parameters": arguments, "required": required, "responses": {}}
    back = json.loads(json.dumps(to_openai_function(seal)))
    assert from_openai_function(back, "seal") == seal
    lists = [
        [{"name": k, "default": "", **a} for k, a in arguments.items() if (k in required) is needed]
        for needed in (True, False)
    ]
    api = {"api_name": name, "required_parameters": lists[0], "optional_parameters": lists[1]}
    back = json.loads(json.dumps(to_openai_function(api)))
    assert from_openai_function(back, "toolbench") == api
