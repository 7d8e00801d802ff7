"""Threads for calls that block: short ones share a turn, a long one holds up nobody.

To hand a call to a thread and its result back costs more than most calls: two switches of threads,
a wake-up of the event loop, and a lock of the interpreter that both sides want (LOG.md,
2026-11-27). So one thread works through all that wait and then wakes the loop once. While threads
are at work the loop looks every few milliseconds, takes what is done so far, and sends another
thread if the call that has waited longest is still the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
LOOK_S = 0.01
"""Between two looks: how much later a short call may be answered because of a long one."""


class CallThreads:
    """At most ``most`` threads. Used by one event loop, in whose thread everything but the calls
    themselves runs."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._threads = ThreadPoolExecutor(most, name)
        self._waiting: deque[_Call] = deque()
        self._done: deque[_Call] = deque()
        self._at_work = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._next_look: asyncio.TimerHandle | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``function`` returns or raises, of a thread.

        A thread cannot be cancelled: whoever waits may leave, the call is made all the same.
        """
        loop = asyncio.get_running_loop()
        # the context holds the request's id, for the log
        made = partial(copy_context().run, function, *args, **kwargs)
        call = _Call(made, loop.create_future())
        self._waiting.append(call)
        if self._idle.is_set():
            self._idle.clear()
            loop.call_soon(self._send_thread, loop)  # who asks in the same turn shares the thread
            self._next_look = loop.call_later(LOOK_S, self._look, loop, call)
        result: T = await call.answer
        return result

    async def finish(self) -> None:
        """Wait until no call is waiting and no thread at work."""
        await self._idle.wait()

    def end(self) -> None:
        """After the last call."""
        self._threads.shutdown(wait=False)

    def _send_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        self._at_work += 1
        self._threads.submit(self._work, loop)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: its turn, which ends when nothing is waiting."""
        while self._waiting:
            try:
                call = self._waiting.popleft()
            except IndexError:  # another thread was faster
                break
            call.make()
            self._done.append(call)
        loop.call_soon_threadsafe(self._end_turn, loop)

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._at_work -= 1
        self._hand_over()
        if self._at_work == 0:
            if self._waiting:  # came while the last turn was ending
                self._send_thread(loop)
                return
            self._idle.set()
            if self._next_look is not None:
                self._next_look.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop, oldest: _Call | None) -> None:
        """``oldest``: the call that had waited longest at the look before."""
        self._hand_over()
        still = next(iter(self._waiting.copy()), None)  # threads take from the deque meanwhile
        if still is not None and still is oldest and self._at_work < self._most:
            self._send_thread(loop)
        self._next_look = loop.call_later(LOOK_S, self._look, loop, still)

    def _hand_over(self) -> None:
        while self._done:
            self._done.popleft().reply()


class _Call:
    """A call, made in a thread, whose outcome the loop's thread hands over."""

    def __init__(self, function: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        self._function = function
        self.answer = answer
        self._result: Any = None
        self._error: BaseException | None = None

    def make(self) -> None:
        try:
            self._result = self._function()
        except StopIteration as error:  # a future does not take it
            self._error = RuntimeError(f"call raised {error!r}")
        except BaseException as error:
            self._error = error

    def reply(self) -> None:
        if self.answer.done():
            return  # whoever waited has left
        if self._error is None:
            self.answer.set_result(self._result)
        else:
            self.answer.set_exception(self._error)
