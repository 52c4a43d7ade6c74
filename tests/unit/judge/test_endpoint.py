"""The judge behind an endpoint, against a server with every trouble there is."""

import datetime
import email.utils
import json

import pytest

from difflm_core.errors import ConfigError, StageError
from difflm_core.judge.endpoint import EndpointJudge, EndpointOptions
from difflm_core.judge.exchange import seconds_to_wait
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
    # Services quote what they do not like: the document, or the key.
    error = {"message": f"bad {KEY} in Adds two numbers.", "code": "no_access", "type": KEY}
    service.reply = in_turn((status, {}, {"error": error}))
    with pytest.raises(ConfigError, match=f"status {status}") as caught:
        list(judge().ask([score_question(TOOL)]))
    assert KEY not in str(caught.value)
    assert "(no_access)" in str(caught.value)
    assert "Adds" not in str(caught.value)
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
        ("https://example.org:port/v1", "no URL"),
        ("https://user:secret@example.org/v1", "holds a name or a password"),
    ],
)
def test_addresses_that_leak_or_are_none_are_refused(url, expected):
    with pytest.raises(ConfigError, match=expected):
        EndpointJudge(EndpointOptions(url, "m"))


def test_preferences_are_read(service, judge):
    service.reply = in_turn('{"reason": "r", "better": "b"}', '{"better": "Equal"}')
    questions = [preference_question([TOOL], [{}]), preference_question([{}], [TOOL])]
    assert list(judge().ask(questions)) == ["B", "equal"]


def test_a_date_to_wait_for_is_obeyed(service, judge):
    asked = judge()
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=42)
    date = email.utils.format_datetime(until, usegmt=True)
    service.reply = in_turn((429, {"Retry-After": date}, b""), GOOD)
    assert list(asked.ask([score_question(TOOL)])) == [7]
    assert 40 <= asked.waits[0] <= 42


def test_a_date_is_one_of_the_services_clock():
    headers = {
        "date": "Wed, 21 Oct 2015 07:28:00 GMT",
        "retry-after": "Wed, 21 Oct 2015 07:28:42 GMT",
    }
    assert seconds_to_wait(headers) == 42


def test_a_refused_document_is_counted_and_the_others_are_asked(service, judge):
    asked = judge()
    service.reply = lambda body: (
        (400, {}, {"error": {"message": "maximum context length", "code": None}})
        if "long" in body["messages"][1]["content"].partition("<<<")[2]
        else GOOD
    )
    questions = [score_question({"name": name}) for name in ("a", "long", "b")]
    assert list(asked.ask(questions)) == [7, None, 7]
    assert dict(asked.usage.unanswered) == {"refused with status 400": 1}
    assert len(service.requests) == 3
    assert all("response_format" in body for body in service.requests)


def test_a_service_that_is_gone_ends_the_questions(service, judge):
    asked = judge(max_tries=2)
    service.reply = in_turn(GOOD, (500, {}, b""))
    with pytest.raises(StageError, match="has not answered 8 questions in a row") as caught:
        list(asked.ask([score_question({"n": i}) for i in range(100)]))
    assert KEY not in str(caught.value)
    assert 1 + 8 * 2 <= len(service.requests) <= 1 + 10 * 2


def test_a_service_that_fails_now_and_then_goes_on(service, judge):
    asked = judge(max_tries=1)
    service.reply = in_turn(*[(500, {}, b""), GOOD] * 10)
    assert list(asked.ask([score_question({"n": i}) for i in range(20)])) == [None, 7] * 10


def test_an_answer_that_cannot_be_decoded_is_tried_again(service, judge):
    asked = judge()
    service.reply = in_turn((200, {"Content-Encoding": "gzip"}, b"no gzip"), GOOD)
    assert list(asked.ask([score_question(TOOL)])) == [7]
    assert len(service.requests) == 2


def test_what_malformed_answers_cost_is_kept(service, judge, tmp_path):
    service.reply = in_turn("no", GOOD)
    list(judge(cache=str(tmp_path)).ask([score_question(TOOL)]))
    again = judge(cache=str(tmp_path))
    assert list(again.ask([score_question(TOOL)])) == [7]
    assert (again.usage.prompt_tokens, again.usage.answer_tokens) == (20, 4)


def test_another_service_is_asked_anew(service, judge, tmp_path):
    list(judge(cache=str(tmp_path)).ask([score_question(TOOL)]))
    with running() as other:
        there = EndpointJudge(EndpointOptions(other.address, "judge-1", cache=str(tmp_path)))
        list(there.ask([score_question(TOOL)]))
        there.close()
        assert len(other.requests) == 1


def test_no_proxy_stands_before_this_machine(service, judge, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert list(judge(max_tries=1).ask([score_question(TOOL)])) == [7]


@pytest.mark.parametrize("key", ["sk-a b", "sk-ä", "sk-a\nX-Other: b"])
def test_a_key_that_is_none_is_refused_and_not_shown(key):
    with pytest.raises(ConfigError, match="not shown") as caught:
        EndpointJudge(EndpointOptions("https://example.org/v1", "m"), key)
    assert "sk-" not in str(caught.value)


def test_the_line_break_behind_a_key_does_no_harm(service):
    asked = EndpointJudge(EndpointOptions(service.address, "m"), f"{KEY}\n")
    assert list(asked.ask([score_question(TOOL)])) == [7]
    assert service.keys == [f"Bearer {KEY}"]
    asked.close()
