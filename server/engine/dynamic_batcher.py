"""Work for several callers in one call of a thread: what comes while it is busy is done together.

Dynamic batching as inference servers do it, but nothing waits for company: an idle thread begins
with the first item. A forward pass over a few queries costs little more than over one, on a GPU
nothing, for it waits for launches there (experiments/LOG.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

import structlog

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 16
"""Of a batch. On a CPU, where work grows with the batch, the first must not wait for a crowd."""

log = structlog.get_logger(__name__)


class DynamicBatcher(Generic[Item, Result]):
    """Used from one event loop. An item whose caller has gone before its turn is not worked on."""

    def __init__(
        self, thread: Executor, work: Callable[[Sequence[Item]], Iterable[Result]]
    ) -> None:
        """``work``: one result for each item, in order."""
        self._thread = thread
        self._work = work
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """Raises: what ``work`` raises for this item alone; CancelledError once the thread has been
        shut down."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work_off())
        return await result

    async def _work_off(self) -> None:
        while batch := self._next_batch():
            items = [item for item, _ in batch]
            try:
                done = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._try, items
                )
            except (asyncio.CancelledError, RuntimeError):  # the loop or the thread is closed
                for _, result in [*batch, *self._waiting]:
                    result.cancel()
                self._waiting.clear()
                return
            for (_, result), value in zip(batch, done, strict=True):
                if result.done():  # its caller has gone
                    continue
                if isinstance(value, Exception):
                    result.set_exception(value)
                else:
                    result.set_result(value)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < MOST:
            item, result = self._waiting.popleft()
            if not result.done():
                batch.append((item, result))
        return batch

    def _try(self, items: Sequence[Item]) -> list[Result | Exception]:
        """In the thread."""
        try:
            return list(self._work(items))
        except Exception as error:
            if len(items) == 1:
                return [error]
        # one that fails must not fail its neighbours
        return [self._try([item])[0] for item in items]


def try_to_record(record: Callable[[int], None]) -> None:
    """``record`` what batches of up to ``MOST`` take. What cannot be is slower, not gone."""
    try:
        record(MOST)
    except RuntimeError:  # an operator that waits for the device, say
        log.warning("selection_not_recorded", exc_info=True)
