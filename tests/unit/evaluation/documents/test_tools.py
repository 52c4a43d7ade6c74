import pytest

from difflm_core.evaluation.documents.tools import NO_DEFAULT, check_arguments, read_tool

OPENAI = {
    "name": "find",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Rome", "Oslo"], "default": "Oslo"},
            "days": {"type": "integer", "default": 3},
            "tags": {"type": ["array", "null"]},
        },
        "required": ["city"],
    },
}
SEAL = {
    "api_name": "find",
    "parameters": {
        "city": {"type": "str", "description": "..."},
        "type": {"type": "int", "description": "an argument that is called type"},
    },
    "required": ["city"],
}
TOOLBENCH = {
    "api_name": "find",
    "required_parameters": [{"name": "city", "type": "STRING", "default": ""}],
    "optional_parameters": [
        {"name": "day", "type": "DATE (YYYY-MM-DD)", "default": "2024-01-31"},
        {"name": "count", "type": "NUMBER", "default": "10"},
    ],
}


def arguments_of(record):
    return [(a.name, a.type, a.required) for a in read_tool(record).arguments]


def test_three_forms_are_understood() -> None:
    assert arguments_of(OPENAI) == [
        ("city", "string", True),
        ("days", "integer", False),
        ("tags", "array", False),
    ]
    assert arguments_of({"type": "function", "function": OPENAI}) == arguments_of(OPENAI)
    assert arguments_of(SEAL) == [("city", "string", True), ("type", "integer", False)]
    assert arguments_of(TOOLBENCH) == [
        ("city", "string", True),
        ("day", "string", False),
        ("count", "number", False),
    ]
    assert read_tool(TOOLBENCH).arguments[0].default is NO_DEFAULT  # an empty one
    assert [read_tool(r).name for r in (OPENAI, SEAL, TOOLBENCH)] == ["find"] * 3


@pytest.mark.parametrize("record", [None, 3, [], {}, {"parameters": "none"}, {"name": "find"}])
def test_other_records_are_no_tools(record) -> None:
    assert read_tool(record) is None
    assert check_arguments([record]).num_tools == 0


@pytest.mark.parametrize("record", [OPENAI, SEAL, TOOLBENCH])
def test_correct_tools_have_no_problem(record) -> None:
    check = check_arguments([record])
    assert (check.num_tools, check.share, check.problems) == (1, 1.0, {})
    assert check.num_arguments == check.num_correct > 0


def test_a_tool_without_arguments_is_one() -> None:
    check = check_arguments([{"name": "now", "parameters": {"type": "object"}}])
    assert (check.num_tools, check.num_arguments, check.share) == (1, 0, 1.0)


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ({}, "no known type"),
        ({"type": "wish"}, "no known type"),
        ({"type": ["string", "wish"]}, "no known type"),
        ({"type": ["string", "integer"], "default": 3}, None),
        ({"type": "integer", "default": "ten"}, "default of another type"),
        ({"type": "integer", "default": 1.5}, "default of another type"),
        ({"type": "integer", "default": True}, "default of another type"),
        ({"type": "integer", "default": float("inf")}, "default of another type"),
        ({"type": "integer", "default": "10"}, None),
        ({"type": "integer", "default": None}, None),
        ({"type": "number", "default": 1.5}, None),
        ({"type": "boolean", "default": "false"}, None),
        ({"type": "boolean", "default": "maybe"}, "default of another type"),
        ({"type": "array", "default": {}}, "default of another type"),
        ({"type": "string", "default": ["a"]}, "default of another type"),
        ({"type": "integer", "enum": [1, "two"]}, "choice of another type"),
        ({"type": "string", "enum": ["a", "b"], "default": "c"}, "default that is no choice"),
        ({"type": "array", "enum": ["a", "b"], "default": ["b"]}, None),
        ({"type": "integer", "enum": [1, 2], "default": "2"}, None),
    ],
)
def test_each_problem(argument, problem) -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": argument}}}
    check = check_arguments([tool])
    assert check.problems == ({problem: 1} if problem else {})
    assert (check.num_arguments, check.num_correct) == (1, 0 if problem else 1)


def test_names_that_are_missing_twice_or_invented() -> None:
    twice = {"name": "a", "type": "STRING"}
    toolbench = {
        "api_name": "f",
        "required_parameters": [twice, {"name": " ", "type": "STRING"}],
        "optional_parameters": [twice],
    }
    invented = {**OPENAI, "parameters": {**OPENAI["parameters"], "required": ["city", "town"]}}
    check = check_arguments([toolbench, invented, "no tool"])
    assert check.num_tools == 2
    assert check.problems == {"a name twice": 1, "no name": 1, "required, but no argument": 1}
    assert check.share == pytest.approx(4 / 7)


def test_broken_lists_of_parameters_do_not_crash() -> None:
    tool = {"api_name": "f", "required_parameters": 3, "optional_parameters": ["text", None]}
    assert check_arguments([tool]).num_arguments == 0
