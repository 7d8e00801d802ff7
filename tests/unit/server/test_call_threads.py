"""Calls in threads: short ones share a turn, long ones hold up nobody, failures stay their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest

from server.call_threads import CallThreads

PATIENCE_S = 10.0


@asynccontextmanager
async def threads(most: int = 2) -> AsyncIterator[CallThreads]:
    made = CallThreads(most, "test")
    try:
        yield made
        await asyncio.wait_for(made.finish(), PATIENCE_S)
    finally:
        made.end()


def test_calls_of_one_turn_of_the_loop_share_a_thread() -> None:
    async def ask() -> list[int]:
        async with threads() as some:
            return await asyncio.gather(*(some.run(threading.get_ident) for _ in range(50)))

    made_in = set(asyncio.run(ask()))
    assert len(made_in) == 1
    assert made_in != {threading.get_ident()}


@pytest.mark.parametrize("long_first", [True, False])
def test_a_short_call_does_not_wait_for_a_long_one(long_first: bool) -> None:
    async def ask() -> None:
        release = threading.Event()
        async with threads() as some:
            calls = [some.run(release.wait, PATIENCE_S), some.run(str, 7)]
            tasks = [asyncio.create_task(call) for call in calls[:: 1 if long_first else -1]]
            long, short = tasks[:: 1 if long_first else -1]
            assert await asyncio.wait_for(short, PATIENCE_S / 2) == "7"
            assert not long.done()
            release.set()
            assert await long

    asyncio.run(ask())


def test_calls_that_compute_for_long_get_more_than_one_thread() -> None:
    def compute() -> int:
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        return threading.get_ident()

    async def ask() -> list[int]:
        async with threads() as some:
            return await asyncio.gather(*(some.run(compute) for _ in range(40)))

    assert len(set(asyncio.run(ask()))) == 2


def test_no_more_than_the_given_number_of_threads_are_at_work() -> None:
    most, at_once, lock = 0, 0, threading.Lock()

    def call() -> None:
        nonlocal most, at_once
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.03)
        with lock:
            at_once -= 1

    async def ask() -> None:
        async with threads(2) as some:
            await asyncio.gather(*(some.run(call) for _ in range(12)))

    asyncio.run(ask())
    assert most == 2


def test_what_a_call_raises_reaches_whoever_made_it_and_nobody_else() -> None:
    def fail(error: Exception) -> None:
        raise error

    async def ask() -> list[object]:
        async with threads() as some:
            calls = [some.run(fail, KeyError("gone")), some.run(fail, StopIteration())]
            return await asyncio.gather(*calls, some.run(str, 7), return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert isinstance(first, KeyError)
    assert isinstance(second, RuntimeError)
    assert third == "7"


def test_a_call_whose_waiter_left_is_made_all_the_same() -> None:
    async def ask() -> list[str]:
        made: list[str] = []
        release = threading.Event()
        async with threads(1) as some:
            long = asyncio.create_task(some.run(release.wait, PATIENCE_S))
            left = asyncio.create_task(some.run(made.append, "left"))
            stayed = asyncio.create_task(some.run(made.append, "stayed"))
            await asyncio.sleep(0)
            left.cancel()
            release.set()
            await asyncio.gather(long, stayed)
            assert left.cancelled()
        return made

    assert asyncio.run(ask()) == ["left", "stayed"]


def test_a_call_sees_the_context_of_whoever_made_it() -> None:
    request_id: ContextVar[str] = ContextVar("request_id")

    async def ask(given: str, some: CallThreads) -> str:
        request_id.set(given)
        return await some.run(request_id.get)

    async def all_of_them() -> list[str]:
        async with threads() as some:
            return await asyncio.gather(*(ask(f"{number}", some) for number in range(5)))

    assert asyncio.run(all_of_them()) == ["0", "1", "2", "3", "4"]


def test_calls_after_an_idle_while_are_made_too() -> None:
    async def ask() -> list[str]:
        answers = []
        async with threads() as some:
            for number in range(3):
                answers.append(await some.run(str, number))
                await some.finish()
        return answers

    assert asyncio.run(ask()) == ["0", "1", "2"]
