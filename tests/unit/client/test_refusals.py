"""Errors say what the service said, and never the key."""

import json
import pickle

import httpx
import pandas as pd
import pytest

from difflm_core.client import Client, Column, ServiceError
from difflm_core.errors import ConfigError
from tests.unit.client.answering import (
    DETAILS,
    KEY,
    Service,
    column,
    problem,
)


def test_a_wrong_key_of_a_request_is_named():
    service = Service()
    errors = [{"field": "count", "message": "expected at least 1"}]
    service.next = [problem(422, "invalid", "The request is wrong.", errors=errors)]
    with service.client() as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert str(caught.value) == (
        "POST /v1/models/adult/generate: the service answered 422 (invalid): The request is "
        "wrong.; count: expected at least 1. Correct the request. Request abc."
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(500, html="<h1>Oops</h1>"), "Internal Server Error"),
        (httpx.Response(500, text="upstream\nis down"), "upstream is down"),
        (httpx.Response(500, json=[1]), "Internal Server Error"),
        (httpx.Response(599, content=b"\xff"), "no reason given"),
    ],
)
def test_an_error_that_is_not_the_service_s(answer, said):
    service = Service()
    service.next = [answer]
    with service.client() as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert str(caught.value) == (
        f"POST /v1/models/adult/generate: the service answered {answer.status_code} "
        f"(unexpected): {said}. Look at the service's log."
    )


def test_an_answer_that_is_not_the_service_s():
    transport = httpx.MockTransport(lambda request: httpx.Response(200, html="<html>Hello"))
    with Client("http://localhost", transport=transport) as client:
        with pytest.raises(ServiceError) as caught:
            client.models()
    assert str(caught.value) == (
        "GET /v1/models: the answer is not a ModelList of this service. Check that the URL is that "
        "of the service, and that it is not older than this client."
    )


def test_errors_travel_between_processes():
    error = ServiceError("Message.", status=429, code="rate_limited", retry_after=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status, again.retry_after) == ("Message.", 429, 2.0)


def test_models_are_typed():
    with Service().client() as client:
        (model,) = client.models()
        assert (model.id, model.version, model.num_columns) == ("adult", "v1", 2)
        details = client.model("adult")
        assert details.columns[1] == Column(**column("seed", nullable=True))
        assert client.limits().rows_per_request == 100_000
        with pytest.raises(AttributeError):
            details.version = "v2"


def test_names_stay_in_their_place_of_the_url():
    paths = []

    def handle(request):
        paths.append(request.url.raw_path)
        return httpx.Response(200, json=DETAILS)

    with Client("https://host/prefix/", transport=httpx.MockTransport(handle)) as client:
        client.model("a/b? c")
        assert paths == [b"/prefix/v1/models/a%2Fb%3F%20c"]
        with pytest.raises(ConfigError, match=r"'\.\.' is not the name of a model"):
            client.model("..")


@pytest.mark.parametrize("wrong", [{"page_rows": 1000}, {"page_rows": 0}, {"key": "a b"}])
def test_wrong_arguments(wrong):
    with pytest.raises(ConfigError) as caught:
        Service().client(**wrong)
    assert "a b" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://h?a=b"])
def test_wrong_urls(url):
    with pytest.raises(ConfigError, match="is not the URL of a service"):
        Client(url)


def test_no_rows_are_an_error():
    with Service().client() as client, pytest.raises(ConfigError, match="num_rows is 0"):
        client.stream("adult", 0)


def test_conditions_of_other_libraries_are_plain():
    service = Service()
    conditions = {
        "day": {"min": pd.Timestamp("2024-01-02"), "max": None},
        "age": pd.Series([3]).iloc[0],
        "job": ("cook", "nurse"),
    }
    with service.client() as client:
        client.sample_table("adult", 1, conditions=conditions, temperature=0.5)
    body = json.loads(service.requests[-1].content)
    assert body["conditions"] == {
        "day": {"min": "2024-01-02T00:00:00", "max": None},
        "age": 3,
        "job": ["cook", "nurse"],
    }
    assert (body["temperature"], body["top_p"], body["format"]) == (0.5, 1.0, "arrow")


def test_the_key_is_sent_and_never_shown(monkeypatch, caplog):
    caplog.set_level(0)
    monkeypatch.setenv("DIFFLM_API_KEY", KEY + "\n")
    service = Service()
    service.next = [
        httpx.ConnectError(f"refused Bearer {KEY}"),
        problem(401, f"bad-{KEY}", f"The key {KEY} is not known.", request_id=KEY),
    ]
    with service.client(key=None) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert service.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    error = caught.value
    assert "The key *** is not known" in str(error)
    shown = [str(error), repr(error), str(vars(error)), repr(client), caplog.text]
    assert not [text for text in shown if KEY in text]
    assert repr(client) == "Client('http://127.0.0.1:8000')"


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("DIFFLM_API_KEY", raising=False)
    service = Service()
    with service.client(key=None) as client:
        client.models()
    assert "authorization" not in service.requests[0].headers


def test_a_key_does_not_travel_readably_to_another_machine():
    with pytest.raises(ConfigError) as caught:
        Client("http://example.org:8000", key=KEY)
    assert str(caught.value) == (
        "http://example.org:8000: a key would travel readably over http to another machine. Use "
        "https, or give insecure=True if the network is trusted."
    )
    for url in ("http://localhost:1", "http://127.1.2.3", "http://[::1]:80", "https://example.org"):
        Client(url, key=KEY).close()
    Client("http://example.org", key=KEY, insecure=True).close()
    Client("http://example.org", key="").close()
    for url in ("http://127.0.0.1.example.org", "http://localhost.example.org", "http://0.0.0.0"):
        with pytest.raises(ConfigError):
            Client(url, key=KEY)
    with pytest.raises(ConfigError) as caught:
        Client("https://me:secret@example.org")
    assert "secret" not in str(caught.value)


def test_no_proxy_sees_what_stays_on_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.org:3128")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Client("http://localhost:8000", key=KEY) as client:
        assert client._connection._http._mounts == {}
