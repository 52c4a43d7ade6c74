"""What conditions are understood, what is refused, and what can be asked for."""

import datetime

import numpy as np
import pytest

from difflm_core.errors import ConfigError
from difflm_core.generation.choices import column_choices
from difflm_core.generation.conditions import Conditions

DAY = datetime.date(2020, 6, 1)


def parse(generator, wanted):
    return Conditions.parse(wanted, generator.codec)


def only(generator, wanted):
    (condition,) = parse(generator, wanted).columns
    return condition.values, condition.ranges, condition.missing


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"label": "yes"}, {"label": True}),
        ({"label": "YES"}, {"label": True}),
        ({"label": "no"}, {"label": [False]}),
        ({"age": "30"}, {"age": 30}),
        ({"age": 30.0}, {"age": 30}),
        ({"age": np.int64(30)}, {"age": 30}),
        ({"age": {"min": 29.5, "max": "40"}}, {"age": {"min": 30, "max": 40}}),
        ({"age": {"min": None, "max": 2**80}}, {"age": {"max": 2**63 - 1}}),
        ({"day": DAY}, {"day": "2020-06-01"}),
        ({"day": "2020-06-01T00:00:00"}, {"day": "2020-06-01"}),
        (
            {"joined": "2020-06-01"},
            {"joined": {"min": "2020-06-01T00:00:00", "max": "2020-06-01T23:59:59.999999"}},
        ),
        (
            {"joined": {"min": "2020-06-01T02:00:00+02:00"}},
            {"joined": {"min": "2020-06-01T00:00:00"}},
        ),
        (["age=30..40"], {"age": {"min": 30, "max": 40}}),
        (["age=30.."], {"age": {"min": 30}}),
        (["age=..40"], {"age": {"max": 40}}),
        (["age=30|50..60"], {"age": [30, {"min": 50, "max": 60}]}),
        (["job=cook|nurse"], {"job": ["cook", "nurse"]}),
        (["job="], {"job": None}),
        (["job=|cook"], {"job": [None, "cook"]}),
        (["level=1|0"], {"level": "1|0"}),
        (['level=["1|0", "2|1"]'], {"level": ["1|0", "2|1"]}),
        (['level="1|0"'], {"level": "1|0"}),
        (['age={"min": 30}'], {"age": {"min": 30}}),
        (["day=2020-06-01..2020-06-30"], {"day": {"min": "2020-06-01", "max": "2020-06-30"}}),
        (["label=yes"], {"label": True}),
        (["opens=08:00..09:30"], {"opens": {"min": "08:00:00", "max": "09:30:00"}}),
    ],
)
def test_other_ways_to_say_the_same(generator, given, same):
    assert only(generator, given) == only(generator, same)


@pytest.mark.parametrize(
    "wanted", [{"land": "Norway"}, {"land": ["Norway", "Chad"]}, ["land=Norway"]]
)
def test_what_a_constant_holds_is_no_condition(generator, wanted):
    assert parse(generator, wanted) == Conditions()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"agee": 3}, "column 'agee' does not exist; nearest: 'age'"),
        (["agee=3"], "column 'agee' does not exist; nearest: 'age'"),
        (
            ["age"],
            "found 'age', expected COLUMN=VALUE, such as 'age=30..40' or 'sex=Female'.",
        ),
        (
            ["age=30", "age=40"],
            "column 'age' is given twice. Join its values: 'age=A|B' asks for rows with one of "
            "them.",
        ),
        ({"job": "cok"}, "column 'job': value 'cok' does not exist; nearest: 'cook', 'clerk'."),
        ({"job": []}, "column 'job': the list of values is empty; give at least one, or leave the "
         "column out."),
        ({"job": {"min": "a"}}, "column 'job': a range is asked for, but the column is "
         "categorical; give a value or a list of values."),
        ({"age": None}, "column 'age': missing values are asked for, but the column never misses "
         "one."),
        ({"age": 30.5}, "column 'age': found 30.5, expected a whole number."),
        ({"age": True}, "column 'age': found true, expected a number."),
        ({"age": "old"}, 'column \'age\': found "old", expected a number.'),
        ({"age": float("nan")}, "column 'age': found nan, expected a finite number."),
        ({"age": 200}, "column 'age': 200 cannot be generated; the values reach from 18 to 79."),
        ({"age": {"min": 90}}, "column 'age': the range from 90 cannot be generated; the values "
         "reach from 18 to 79."),
        ({"age": {"min": 40, "max": 30}}, "column 'age': the range 40 to 30 is empty: min is above "
         "max."),
        ({"age": {}}, "column 'age': the range has neither min nor max; give at least one."),
        ({"age": {"low": 3}}, 'column \'age\': found the key "low" in a range, expected min and '
         "max."),
        ({"opens": {"min": "06:10", "max": "06:20"}}, "column 'opens': nothing can be generated in "
         'the range "06:10:00" to "06:20:00"; widen the range.'),
        ({"visits": {"min": 1.2, "max": 1.8}}, "column 'visits': the range 2 to 1 is empty: min is "
         "above max."),
        ({"weight": 1.0}, "column 'weight': the value 1.0 itself is never generated; ask for a "
         "range around it, with min and max."),
        ({"pay": 300.001}, "column 'pay': the value 300.001 itself is never generated; ask for a "
         "range around it, with min and max."),
        ({"member": "maybe"}, 'column \'member\': found "maybe", expected true or false.'),
        ({"label": "maybe"}, 'column \'label\': found "maybe", expected true or false, \'yes\' or '
         "'no'."),
        ({"day": "tomorrow"}, 'column \'day\': found "tomorrow", expected ISO text such as '
         '"2024-01-31" (date).'),
        ({"day": 20200601}, "column 'day': found 20200601, expected ISO text such as "
         '"2024-01-31" (date).'),
        ({"opens": "25:00"}, 'column \'opens\': found "25:00", expected ISO text such as '
         '"18:30:00" (time).'),
        ({"joined": "2020-13-01"}, 'column \'joined\': found "2020-13-01", expected ISO text such '
         'as "2024-01-31" or "2024-01-31T18:30:00" (datetime).'),
        ({"person": "P-00001"}, "column 'person': holds identifiers, which are made for each row "
         "anew. Rows cannot be asked for by it; condition on another column."),
        ({"land": "Chad"}, "column 'land': always holds 'Norway', so no row can meet the "
         "condition; leave the column out."),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_refused_before_any_work(generator, wanted, message):
    with pytest.raises(ConfigError) as caught:
        parse(generator, wanted)
    assert str(caught.value) == f"conditions: {message}"


def test_free_text_cannot_be_asked_for(with_text):
    with pytest.raises(ConfigError, match="column 'note': holds free text"):
        parse(with_text, {"note": "late 3"})


# ------------------------------------------------------------------- what can be asked for


def test_the_choices_of_each_column(generator):
    found = {name: column_choices(generator.codec, name) for name in generator.codec.schema.names}
    assert found["job"].categories == ("clerk", "cook", "nurse", "pilot")
    assert found["job"].nullable
    assert found["member"].categories == (False, True)
    assert (found["member"].minimum, found["member"].maximum) == (None, None)
    assert (found["age"].minimum, found["age"].maximum) == (18, 79)
    assert found["opens"].minimum == "06:00:00"
    assert found["day"].minimum == "2020-01-01"
    assert found["joined"].minimum.startswith("2020-01-0")
    assert found["land"].categories == ("Norway",)
    assert not found["age"].nullable
    assert [name for name, each in found.items() if not each.conditional] == ["person", "land"]
