"""What may pass is waited out, as long as allowed."""

import email.utils
import time

import httpx
import pytest

from difflm_core.client import ServiceError
from tests.unit.client.answering import (
    Broken,
    Service,
    problem,
    row_numbers,
)


def test_a_busy_service_is_asked_again_when_it_says():
    service = Service()
    service.next = [
        problem(503, "busy", headers={"Retry-After": "7"}),
        problem(429, retry_after_seconds=3),
        httpx.Response(503, headers={"Retry-After": "soon"}),
    ]
    with service.client() as client:
        assert client.sample_table("adult", 10).num_rows == 10
    assert service.clock.waits[:2] == [7.0, 3]
    assert 0 <= service.clock.waits[2] <= 2.0


def test_retry_after_may_be_a_date():
    now = time.time()
    headers = {
        "Date": email.utils.formatdate(now - 5000, usegmt=True),
        "Retry-After": email.utils.formatdate(now - 5000 + 11, usegmt=True),
    }
    service = Service()
    service.next = [problem(503, headers=headers)]
    with service.client() as client:
        client.sample_table("adult", 10)
    assert service.clock.waits == [11.0]


def test_waits_grow_and_are_by_chance(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    service = Service()
    service.next = [httpx.ConnectError("refused") for _ in range(9)]
    with service.client(max_retries=9) as client:
        client.sample_table("adult", 10)
    assert service.clock.waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_it_gives_up_with_the_last_error():
    service = Service()
    service.next = [httpx.ConnectError("refused"), problem(503, "busy", "All replicas are busy.")]
    with service.client(max_retries=1) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    error = caught.value
    assert str(error) == (
        "POST /v1/models/adult/generate: the service answered 503 (busy): All replicas are busy. "
        "Ask again later. Request abc. Tried 2 times."
    )
    assert (error.status, error.code, error.detail) == (503, "busy", "All replicas are busy")
    assert (error.request_id, error.retry_after, error.temporary) == ("abc", None, True)


def test_new_rows_start_the_count_afresh():
    service = Service(batch_rows=100)
    service.next = [service.cut(share / 10) for share in range(1, 10)]
    with service.client(max_retries=1) as client:
        assert row_numbers(client.sample_table("adult", 1000, seed=1)) == list(range(1000))
    service.next = [service.cut(0.5)] * 3
    with service.client(max_retries=1) as client, pytest.raises(ServiceError, match="broke off"):
        client.sample_table("adult", 1000, seed=1)


def test_a_wait_beyond_the_deadline_is_not_begun():
    service = Service()
    service.next = [problem(503, headers={"Retry-After": "40"})] * 9
    with service.client(deadline_seconds=100) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert service.clock.waits == [40.0, 40.0]
    assert caught.value.retry_after == 40


def test_an_answer_that_drips_without_news_ends_at_the_deadline():
    service = Service()

    class Drip(Broken):
        def __iter__(self):
            for position in range(len(self.data)):
                service.clock.now += 10
                yield self.data[position : position + 1]

    def drip(body):
        answer = service.answer(body)
        return httpx.Response(200, headers=answer.headers, stream=Drip(answer.stream.data))

    service.next = [service.cut(0.9), drip]
    with service.client(deadline_seconds=60) as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 1000, seed=1)
    assert caught.value.code == "too_slow"
    assert service.clock.now < 75


def test_time_of_the_caller_is_not_that_of_the_service():
    service = Service()
    service.next = [service.cut(0.5)]
    with service.client(deadline_seconds=60) as client:
        for _ in client.stream("adult", 1000, seed=1):
            service.clock.now += 1000
    assert len(service.pages) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500, 307])
def test_what_will_not_pass_is_not_asked_again(status):
    service = Service()
    service.next = [problem(status, "some_code")]
    with service.client() as client, pytest.raises(ServiceError) as caught:
        client.sample_table("adult", 10)
    assert (caught.value.status, len(service.pages)) == (status, 1)
    assert service.clock.waits == []
