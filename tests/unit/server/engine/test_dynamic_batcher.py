"""Dynamic batching: company is taken along, nobody waits for it or fails with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.engine.dynamic_batcher import MOST, DynamicBatcher, try_to_record


class Doubling:
    """Doubles numbers in a thread, as soon as it may; refuses 999."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self.batches: list[Sequence[int]] = []
        self.may_go_on = threading.Event()
        self.doubled = DynamicBatcher(thread, self._double)

    def _double(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(numbers)
        assert self.may_go_on.wait(10)
        if 999 in numbers:
            raise ValueError("999")
        return [2 * number for number in numbers]


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    executor = ThreadPoolExecutor(1)
    yield executor
    executor.shutdown()


@pytest.fixture
def doubling(thread: ThreadPoolExecutor) -> Doubling:
    return Doubling(thread)


def run(body: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 10))


async def begun(doubling: Doubling, *numbers: int) -> list[asyncio.Task[int]]:
    """The first is being worked on, the others wait."""
    tasks = [asyncio.create_task(doubling.doubled(number)) for number in numbers]
    while not doubling.batches:
        await asyncio.sleep(0)
    return tasks


def test_an_idle_thread_begins_at_once_and_what_comes_meanwhile_goes_together(
    doubling: Doubling,
) -> None:
    async def body() -> None:
        tasks = await begun(doubling, 0)
        others = [asyncio.create_task(doubling.doubled(number)) for number in range(1, MOST + 3)]
        await asyncio.sleep(0)
        doubling.may_go_on.set()
        assert await asyncio.gather(*tasks, *others) == [2 * number for number in range(MOST + 3)]
        sizes = [len(batch) for batch in doubling.batches]
        assert sizes == [1, MOST, 2]
        assert await doubling.doubled(7) == 14  # idle again

    run(body)


def test_one_that_fails_fails_alone(doubling: Doubling) -> None:
    async def body() -> None:
        doubling.may_go_on.set()
        one, bad, other = await asyncio.gather(
            doubling.doubled(1), doubling.doubled(999), doubling.doubled(3), return_exceptions=True
        )
        assert (one, other) == (2, 6)
        assert isinstance(bad, ValueError)

    run(body)


def test_nobody_works_for_a_caller_who_has_gone(doubling: Doubling) -> None:
    async def body() -> None:
        first, gone, last = [
            *await begun(doubling, 1),
            asyncio.create_task(doubling.doubled(2)),
            asyncio.create_task(doubling.doubled(3)),
        ]
        await asyncio.sleep(0)
        first.cancel()  # while it is worked on
        gone.cancel()
        await asyncio.sleep(0)
        doubling.may_go_on.set()
        assert await last == 6
        assert doubling.batches == [[1], [3]]
        assert first.cancelled()

    run(body)


def test_after_the_shutdown_of_the_thread_nobody_waits_for_ever(
    doubling: Doubling, thread: ThreadPoolExecutor
) -> None:
    async def body() -> None:
        [first] = await begun(doubling, 1)
        waiting = asyncio.create_task(doubling.doubled(2))
        await asyncio.sleep(0)
        thread.shutdown(wait=False, cancel_futures=True)
        doubling.may_go_on.set()
        assert await first == 2  # what had begun is finished
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await doubling.doubled(3)

    run(body)


def test_what_cannot_be_recorded_is_done_as_before() -> None:
    asked: list[int] = []

    def record(most: int) -> None:
        asked.append(most)
        raise RuntimeError("operation not permitted when stream is capturing")

    try_to_record(record)
    assert asked == [MOST]
