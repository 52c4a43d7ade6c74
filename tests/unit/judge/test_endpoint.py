"""The judge behind an endpoint, against a server with every trouble there is."""

import json

import pytest

from difflm_core.errors import ConfigError
from difflm_core.judge.endpoint import EndpointJudge, EndpointOptions
from difflm_core.judge.questions import preference_question, score_question
from tests.unit.judge.service import answer_of, running

KEY = "sk-very-secret"
TOOL = {"name": "add", "description": "Adds two numbers."}


@pytest.fixture
def service():
    with running() as found:
        yield found


@pytest.fixture
def judge(service):
    """Makes judges; they do not really wait, but note how long they would have."""
    made = []

    def new(**options):
        waits = []
        options = {"timeout_seconds": 5.0, "in_flight": 1, **options}
        found = EndpointJudge(
            EndpointOptions(service.address, "judge-1", **options), KEY, sleep=waits.append
        )
        found.waits = waits
        made.append(found)
        return found

    yield new
    for each in made:
        each.close()


def in_turn(*replies):
    """Replies one after the other, the last one for ever."""
    left = list(replies)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


GOOD = '{"reason": "r", "score": 7}'


def test_an_answer_is_read(service, judge):
    asked = judge()
    assert list(asked.ask([score_question(TOOL)])) == [7]
    (request,) = service.requests
    assert request["model"] == "judge-1"
    assert (request["temperature"], request["seed"]) == (0, 0)
    assert request["response_format"]["json_schema"]["schema"]["required"] == ["reason", "score"]
    assert service.keys == [f"Bearer {KEY}"]
    assert (asked.usage.prompt_tokens, asked.usage.answer_tokens) == (10, 2)


def test_answers_come_in_order(service, judge):
    service.reply = lambda body: json.dumps(
        {"score": int(body["messages"][1]["content"].partition("number ")[2][0])}
    )
    questions = [score_question({"name": f"number {i}"}) for i in range(1, 8)]
    assert list(judge(in_flight=4).ask(questions)) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {}, {"error": "slow down"}),
        (500, {}, b"oops"),
        (502, {}, b"<html>"),
        (503, {}, b""),
        "reset",
        "half",
        b"not json",
        {"choices": []},
        {"choices": [{"message": {}}]},
        {"unexpected": True},
        b"[]",
        (200, {}, b"\xff\xfe"),
    ],
    ids=str,
)
def test_what_passes_is_tried_again(service, judge, trouble):
    asked = judge()
    service.reply = in_turn(trouble, trouble, GOOD)
    assert list(asked.ask([score_question(TOOL)])) == [7]
    assert len(service.requests) == 3
    assert 0.5 <= asked.waits[0] <= 1.0
    assert 1.0 <= asked.waits[1] <= 2.0
    assert not asked.usage.unanswered


def test_a_service_that_says_how_long_is_obeyed(service, judge):
    asked = judge()
    service.reply = in_turn(
        (429, {"Retry-After": "17"}, b""), (503, {"Retry-After": "soon"}, b""), GOOD
    )
    assert list(asked.ask([score_question(TOOL)])) == [7]
    assert asked.waits[0] == 17
    assert 1 <= asked.waits[1] <= 2


def test_no_wait_is_longer_than_a_minute(service, judge):
    asked = judge()
    service.reply = in_turn((429, {"Retry-After": "86400"}, b""), GOOD)
    assert list(asked.ask([score_question(TOOL)])) == [7]
    assert asked.waits == [60]


@pytest.mark.parametrize("trouble", [(429, {}, b""), "reset", b"nothing"], ids=str)
def test_what_does_not_pass_is_counted(service, judge, trouble):
    asked = judge(max_tries=3)
    service.reply = in_turn(trouble)
    assert list(asked.ask([score_question(TOOL), score_question({})])) == [None, None]
    assert dict(asked.usage.unanswered) == {"no answer after 3 tries": 2}
    assert len(service.requests) == 6


def test_an_answer_that_drips_is_not_waited_for(service, judge):
    asked = judge(max_tries=1, timeout_seconds=0.4)
    service.reply = in_turn("drip")
    assert list(asked.ask([score_question(TOOL)])) == [None]
    assert dict(asked.usage.unanswered) == {"no answer after 1 tries": 1}


def test_an_endless_answer_is_not_kept(service, judge):
    asked = judge(max_tries=2)
    service.reply = in_turn(answer_of("x" * (2 << 20)))
    assert list(asked.ask([score_question(TOOL)])) == [None]


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.",
        "",
        '{"score": 11}',
        '{"score": true}',
        '{"score": "many"}',
        '{"grade": 7}',
        '{"score": 7',
        None,
    ],
)
def test_malformed_answers_are_asked_for_again(service, judge, text):
    asked = judge()
    service.reply = in_turn(answer_of(text), answer_of(text), GOOD)
    assert list(asked.ask([score_question(TOOL)])) == [7]
    last = service.requests[-1]["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
    assert "This is not what was asked for" in last[-1]["content"]


def test_answers_that_stay_malformed_are_counted(service, judge):
    asked = judge(max_asks=2)
    service.reply = in_turn("no")
    assert list(asked.ask([score_question(TOOL)])) == [None]
    assert dict(asked.usage.unanswered) == {"malformed answer": 1}
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('```json\n{"score": 3, "reason": "x"}\n```', 3),
        ('Well: {"reason": "{}", "score": 4}. Done.', 4),
        ('{"score": "5"}', 5),
        ('{"score": 6.0}', 6),
    ],
)
def test_answers_in_other_clothes_are_understood(service, judge, text, value):
    service.reply = in_turn(text)
    assert list(judge().ask([score_question(TOOL)])) == [value]


def test_a_service_without_formats_is_asked_without(service, judge):
    asked = judge()
    service.reply = lambda body: (400, {}, b"") if "response_format" in body else GOOD
    assert list(asked.ask([score_question(TOOL), score_question({})])) == [7, 7]
    assert ["response_format" in body for body in service.requests] == [True, False, False]


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "key"), (403, "key"), (404, "address"), (422, "")]
)
def test_a_refusal_says_what_to_do_and_no_secret(service, judge, status, hint):
    service.reply = in_turn((status, {}, f"bad key {KEY}".encode()))
    with pytest.raises(ConfigError, match=f"status {status}") as caught:
        list(judge().ask([score_question(TOOL)]))
    assert KEY not in str(caught.value)
    assert "bad key ***" in str(caught.value)
    assert hint in str(caught.value)
    assert len(service.requests) == 1


def test_a_stopped_run_goes_on_without_asking_again(service, judge, tmp_path):
    questions = [score_question({"name": str(i)}) for i in range(4)]
    first = judge(cache=str(tmp_path))
    answers = first.ask(questions)
    next(answers), next(answers)
    answers.close()
    before = len(service.requests)
    second = judge(cache=str(tmp_path))
    assert list(second.ask(questions)) == [7] * 4
    assert len(service.requests) - before == 4 - second.usage.num_cached
    assert second.usage.num_cached >= 2
    third = judge(cache=str(tmp_path))
    assert list(third.ask(questions)) == [7] * 4
    assert (third.usage.num_requests, third.usage.num_cached) == (0, 4)
    assert third.usage.prompt_tokens == 40
    assert KEY not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))


def test_a_damaged_answer_is_asked_for_again(service, judge, tmp_path):
    question = score_question(TOOL)
    list(judge(cache=str(tmp_path)).ask([question]))
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text("{")
    again = judge(cache=str(tmp_path))
    assert list(again.ask([question])) == [7]
    assert again.usage.num_requests == 1


def test_limits_end_the_questions(service, judge):
    asked = judge(max_requests=2)
    assert list(asked.ask([score_question({"n": i}) for i in range(4)])) == [7, 7, None, None]
    assert dict(asked.usage.unanswered) == {"the limit of requests is reached": 2}
    asked = judge(max_tokens=20)
    assert list(asked.ask([score_question({"n": i}) for i in range(4)])) == [7, 7, None, None]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.org/v1", "not encrypted"),
        ("http://10.0.0.1/v1", "not encrypted"),
        ("ftp://example.org", "no URL"),
        ("example.org/v1", "no URL"),
    ],
)
def test_addresses_that_leak_or_are_none_are_refused(url, expected):
    with pytest.raises(ConfigError, match=expected):
        EndpointJudge(EndpointOptions(url, "m"))


def test_preferences_are_read(service, judge):
    service.reply = in_turn('{"reason": "r", "better": "b"}', '{"better": "Equal"}')
    questions = [preference_question([TOOL], [{}]), preference_question([{}], [TOOL])]
    assert list(judge().ask(questions)) == ["B", "equal"]
