"""Work goes on as long as its client is there, and ends with what was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from server.disconnect import unless_disconnected

FOREVER_S = 60.0


class Connection:
    """A client that is there until it ``leaves``."""

    def __init__(self) -> None:
        self._left = asyncio.Event()
        self.request = Request({"type": "http"}, self._receive)

    def leave(self) -> None:
        self._left.set()

    async def _receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}


class Work:
    """Takes for ever. ``cleaned_up`` once it has been cancelled, and has had time for it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cleaned_up = False

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            await asyncio.sleep(0)
            self.cleaned_up = True


def run(body: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(FOREVER_S):
            await body
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "somebody still watches"

    asyncio.run(main())


def test_work_that_ends_gives_its_result() -> None:
    async def body() -> None:
        async def work() -> int:
            await asyncio.sleep(0)
            return 7

        assert await unless_disconnected(Connection().request, work()) == 7

    run(body())


def test_work_that_fails_says_how() -> None:
    async def body() -> None:
        async def work() -> None:
            raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            await unless_disconnected(Connection().request, work())

    run(body())


def test_work_whose_client_leaves_is_cancelled_and_cleans_up() -> None:
    async def body() -> None:
        connection, work = Connection(), Work()
        asyncio.get_running_loop().call_soon(connection.leave)
        with pytest.raises(ClientDisconnect):
            await unless_disconnected(connection.request, work())
        assert work.cleaned_up
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0  # whoever caught it may go on
        await asyncio.sleep(0)

    run(body())


def test_a_task_that_is_cancelled_from_elsewhere_ends_as_cancelled() -> None:
    async def body() -> None:
        connection, work = Connection(), Work()
        task = asyncio.create_task(unless_disconnected(connection.request, work()))
        await work.begun.wait()
        connection.leave()
        task.cancel()  # at the same time
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.cleaned_up

    run(body())
