"""Replaying against a stand-in server: every request is sent, timed and accounted for."""

from __future__ import annotations

import asyncio
import time

import pytest

from clients.async_client import AsyncClient
from clients.loadtest.replay import Replayed, replay
from clients.loadtest.schedule import Schedule
from clients.retries import RetryPolicy
from tests.unit.clients.fake_server import FakeServer


def run(url: str, schedule: Schedule) -> tuple[Replayed, int]:
    answered = 0

    def count() -> None:
        nonlocal answered
        answered += 1

    async def body() -> Replayed:
        async with AsyncClient(url, retries=RetryPolicy(attempts=1)) as client:
            drawn = schedule.draw(["one?", "two?", "three?"])
            return await replay(client, schedule, drawn, {"context": "none"}, count)

    return asyncio.run(body()), answered


def test_every_request_of_a_closed_loop_is_timed(fake_server: FakeServer) -> None:
    schedule = Schedule(requests=6, warmup=2, rate=None, concurrency=2)
    replayed, answered = run(fake_server.url, schedule)
    assert len(replayed.samples) == 6
    assert answered == 8
    assert [path for _, path in fake_server.requests].count("/query") == 8
    for sample in replayed.samples:
        assert sample.error is None
        assert 0 < sample.ttft_ms <= sample.e2e_ms
        assert (sample.prompt_positions, sample.completion_tokens) == (9, 2)
        assert len(sample.itl_ms) == 1  # two pieces
        assert sample.server_ms["select"] == 1.0


def test_an_open_loop_sends_when_requests_are_due(fake_server: FakeServer) -> None:
    schedule = Schedule(requests=10, warmup=0, rate=50.0, concurrency=1)
    due = schedule.due_s()
    assert due is not None
    started = time.perf_counter()
    replayed, _ = run(fake_server.url, schedule)
    assert time.perf_counter() - started >= due[-1]
    assert replayed.seconds >= due[-1]


def test_a_server_that_is_gone_is_an_error_of_each_request() -> None:
    schedule = Schedule(requests=3, warmup=0, rate=None, concurrency=3)
    replayed, _ = run("http://127.0.0.1:9", schedule)
    assert {sample.error for sample in replayed.samples} == {"ConnectionError"}


@pytest.mark.parametrize("rate", [None, 100.0])
def test_the_schedule_says_what_it_is(rate: float | None) -> None:
    told = str(Schedule(requests=1, warmup=0, rate=rate, concurrency=4))
    assert ("concurrency 4" in told) == (rate is None)
    assert ("100 requests/s" in told) == (rate is not None)
