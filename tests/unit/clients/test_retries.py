from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from tenacity import Future, RetryCallState, Retrying

from clients import APIError, Client, ConnectionError, OverloadedError, RetryPolicy
from clients.retries import NO_RETRIES, parse_retry_after_s

JOB = {"job_id": "j1", "document_id": "a", "status": "queued"}
HASTY = RetryPolicy(attempts=4, first_wait_s=0.0)


class Script:
    """Answers the n-th request with the n-th step, the last step for all that follow."""

    def __init__(self, *steps: Callable[[], httpx.Response]) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        step = self.steps[min(len(self.requests), len(self.steps) - 1)]
        self.requests.append(request)
        return step()

    def client(self, policy: RetryPolicy = HASTY) -> Client:
        return Client("http://test", transport=httpx.MockTransport(self), retries=policy)


def refuse_connection() -> httpx.Response:
    raise httpx.ConnectError("refused")


def answer(status: int, body: object = JOB, **headers: str) -> Callable[[], httpx.Response]:
    fixed = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: httpx.Response(status, json=body, headers=fixed)


def failure(status: int, code: str, **headers: str) -> Callable[[], httpx.Response]:
    return answer(status, {"error": {"code": code, "message": "later"}}, **headers)


@pytest.mark.parametrize(
    "step",
    [refuse_connection, failure(429, "queue_full"), failure(503, "loading")],
    ids=["connect", "429", "503"],
)
def test_a_temporary_failure_is_sent_again(step: Callable[[], httpx.Response]) -> None:
    script = Script(step, step, answer(200))
    assert script.client().job("j1").job_id == "j1"
    assert len(script.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 500, 507])
def test_a_lasting_failure_is_not_sent_again(status: int) -> None:
    script = Script(failure(status, "no"))
    with pytest.raises(APIError):
        script.client().job("j1")
    assert len(script.requests) == 1


def test_a_write_is_sent_again_with_the_same_idempotency_key() -> None:
    script = Script(refuse_connection, failure(503, "draining"), answer(202))
    script.client().write("text")
    keys = {request.headers["idempotency-key"] for request in script.requests}
    assert len(script.requests) == 3
    assert len(keys) == 1


def test_two_writes_have_different_idempotency_keys() -> None:
    script = Script(answer(202))
    client = script.client()
    client.write("text")
    client.write("text")
    first, second = (request.headers["idempotency-key"] for request in script.requests)
    assert first != second


def test_a_given_idempotency_key_is_used() -> None:
    script = Script(answer(202))
    script.client().write("text", idempotency_key="mine")
    assert script.requests[0].headers["idempotency-key"] == "mine"


@pytest.mark.parametrize("method", ["cancel", "retry"])
def test_what_must_not_arrive_twice_is_sent_once(method: str) -> None:
    script = Script(refuse_connection)
    with pytest.raises(ConnectionError):
        getattr(script.client(), method)("j1")
    assert len(script.requests) == 1


def test_after_the_last_attempt_the_servers_own_error_is_raised() -> None:
    script = Script(failure(429, "queue_full", retry_after="0"))
    with pytest.raises(OverloadedError, match="later") as caught:
        script.client().job("j1")
    assert caught.value.code == "queue_full"
    assert caught.value.retry_after_s == 0
    assert len(script.requests) == HASTY.attempts


def test_a_retry_after_beyond_the_patience_is_not_waited_for() -> None:
    script = Script(failure(429, "queue_full", retry_after="3600"))
    with pytest.raises(OverloadedError):
        script.client(RetryPolicy(patience_s=60)).job("j1")
    assert len(script.requests) == 1


def test_the_wait_is_what_retry_after_says() -> None:
    error = OverloadedError("full", status=429, retry_after_s=7.0)
    assert wait_s(RetryPolicy(), error, attempt=1) == 7.0


def test_without_retry_after_the_wait_doubles_up_to_its_longest() -> None:
    policy = RetryPolicy(first_wait_s=1.0, longest_wait_s=4.0)
    error = ConnectionError("http://test", "refused")
    waits = [wait_s(policy, error, attempt=n) for n in (1, 2, 3, 9)]
    for waited, ceiling in zip(waits, (1.0, 2.0, 4.0, 4.0), strict=True):
        assert ceiling / 2 <= waited <= ceiling


def wait_s(policy: RetryPolicy, error: Exception, *, attempt: int) -> float:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    outcome = Future(attempt)
    outcome.set_exception(error)
    state.outcome = outcome
    return policy.options(repeatable=True)["wait"](state)


def test_no_retries_means_one_attempt() -> None:
    script = Script(refuse_connection)
    with pytest.raises(ConnectionError):
        script.client(NO_RETRIES).job("j1")
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("12", 12.0), ("0.5", 0.5), ("-3", 0.0), (None, None), ("soon", None), ("nan", None)],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after_s(header) == seconds


def test_retry_after_as_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=100)
    seconds = parse_retry_after_s(format_datetime(later, usegmt=True))
    assert seconds is not None
    assert 90 < seconds <= 100
    past = format_datetime(later - timedelta(hours=1), usegmt=True)
    assert parse_retry_after_s(past) == 0.0
