"""Threads for calls that block: short ones share a turn, a long one holds up nobody.

To hand a call to a thread and its result back costs more than most calls: two switches of threads,
a wake-up of the event loop, and a lock of the interpreter that both sides want (LOG.md,
2026-11-27). So one thread works through all that wait and then wakes the loop once. Meanwhile the
loop looks every few milliseconds, takes what is done so far, and where that thread has made no
short call since the last look it sends a helper, for one such while: more threads that make short
calls only fight over the interpreter.
"""

from __future__ import annotations

import asyncio
import time
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
SHORT_S = 0.002
"""Of computing, without waiting for the interpreter. A search of a million keys takes longer."""


class CallThreads:
    """At most ``most`` threads. Used by one event loop, in whose thread everything but the calls
    themselves runs."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._threads = ThreadPoolExecutor(most, name)
        self._waiting: deque[_Call] = deque()
        self._done: deque[_Call] = deque()
        self._steady = False  # whether the one thread is at work
        self._helpers = 0
        self._short_calls = 0  # made by the one thread
        self._next_look: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``function`` returns or raises, of a thread.

        A thread cannot be cancelled: whoever waits may leave, the call is made all the same.
        """
        loop = asyncio.get_running_loop()
        # the context holds the request's id, for the log
        made = partial(copy_context().run, function, *args, **kwargs)
        call = _Call(made, loop.create_future())
        self._waiting.append(call)
        if not self._steady:
            self._steady = True
            self._idle.clear()
            # not at once: who asks in the same turn of the loop shares the thread's
            loop.call_soon(self._threads.submit, self._work, loop)
            if self._next_look is None:
                self._next_look = loop.call_later(LOOK_S, self._look, loop, self._short_calls)
        result: T = await call.answer
        return result

    async def finish(self) -> None:
        """Wait until no call is waiting and no thread at work."""
        await self._idle.wait()

    def end(self) -> None:
        """After the last call."""
        self._threads.shutdown(wait=False)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: its turn, which ends when nothing is waiting."""
        started = time.thread_time()
        while self._make_next():
            now = time.thread_time()
            self._short_calls += now - started < SHORT_S
            started = now
        loop.call_soon_threadsafe(self._end_turn, loop)

    def _help(self, loop: asyncio.AbstractEventLoop) -> None:
        """In another thread."""
        until = time.monotonic() + LOOK_S
        while time.monotonic() < until and self._make_next():
            pass
        loop.call_soon_threadsafe(self._end_help)

    def _make_next(self) -> bool:
        """Returns: whether there was a call to make."""
        try:
            call = self._waiting.popleft()
        except IndexError:
            return False
        call.make()
        self._done.append(call)
        return True

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._hand_over()
        if self._waiting:  # came while the turn was ending
            self._threads.submit(self._work, loop)
        else:
            self._steady = False
            self._rest()

    def _end_help(self) -> None:
        self._hand_over()
        self._helpers -= 1
        self._rest()

    def _rest(self) -> None:
        if not self._steady and not self._helpers:
            self._idle.set()
            if self._next_look is not None:
                self._next_look.cancel()
                self._next_look = None

    def _look(self, loop: asyncio.AbstractEventLoop, short_calls: int) -> None:
        """``short_calls``: how many there were at the look before."""
        self._hand_over()
        stands_still = self._short_calls == short_calls and self._steady
        if stands_still and self._waiting and self._helpers < self._most - 1:
            self._helpers += 1
            self._threads.submit(self._help, loop)
        self._next_look = loop.call_later(LOOK_S, self._look, loop, self._short_calls)

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
