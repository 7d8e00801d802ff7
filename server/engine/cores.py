"""Who computes with how many cores: the engine's thread with all, less those that others took.

GNU OpenMP, which torch computes with, gives every thread that computes in parallel a team of its
own, whose members meet after every operator. A member that has lost its core to another thread
keeps the rest waiting until the scheduler lets it go on, milliseconds later: beside one busy
thread a forward on two cores took seven times as long as alone, where one core for each of them
takes twice as long. And where all teams together have more members than there are cores, even
those of teams at rest, members sleep between two operators instead of spinning: a forward, a
thousand operators, took 1.4 times as long (experiments/LOG.md).

So who computes beside the engine has a team of one and takes a core for it, without which the
engine goes on from its next layer; between two forwards, where operators are small, the engine
needs one core only. A team ends with its thread, so one that only loads may have one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

from memory_model.base import chosen_device
from paramem.settings import EngineKind, Settings

P = ParamSpec("P")
T = TypeVar("T")
PATIENCE_S = 0.005
"""For a core to be given up: a layer of the default model takes a millisecond. A model that is not
packed gives way between two forwards only, and nobody waits for a whole one."""


class Cores:
    """Of one process, and of the thread of its engine that computes last, if there are several."""

    def __init__(self) -> None:
        self._number = 0  # that the engine has in all; 0 = it is not computing
        self._taken = 0  # by other threads
        self._given_up = 0  # without which the engine computes
        self._changed = threading.Condition()  # guards all of them

    @contextmanager
    def computing(self, number: int) -> Iterator[None]:
        """In the engine's thread: it computes with ``number`` cores, less those that are taken."""
        with self._changed:
            self._number = number
            self._adapt()
        try:
            yield
        finally:
            with self._changed:
                self._number = 0
                self._changed.notify_all()
            torch.set_num_threads(1)

    def give_way(self) -> None:
        """In the engine's thread, in every layer. Costs nothing as long as nothing has changed."""
        if self._taken != self._given_up:
            with self._changed:
                if self._number:
                    self._adapt()

    @contextmanager
    def one_taken(self) -> Iterator[None]:
        """In a thread that computes beside the engine, with one core."""
        with self._changed:
            self._taken += 1
            self._changed.wait_for(self._is_free, PATIENCE_S)
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1

    def _adapt(self) -> None:
        self._given_up = self._taken
        torch.set_num_threads(max(1, self._number - self._given_up))
        self._changed.notify_all()

    def _is_free(self) -> bool:
        return not self._number or self._given_up >= self._taken


CORES = Cores()
"""One for the process, as what it shares out is."""


class _Helper(ThreadPoolExecutor):
    """One thread, which takes a core for each of its calls."""

    def __init__(self, name: str) -> None:
        super().__init__(1, name, initializer=use_cores, initargs=(1,))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        def call() -> T:
            with CORES.one_taken():
                return fn(*args, **kwargs)

        return super().submit(call)


def helper_thread(settings: Settings, name: str) -> ThreadPoolExecutor:
    """A thread for what comes before generating. It has one core, unless the LLM computes on other
    ones: in a process of its own, or on an accelerator."""
    shares = settings.engine is not EngineKind.VLLM and chosen_device(settings.device) == "cpu"
    return _Helper(name) if shares else ThreadPoolExecutor(1, name)


def use_cores(number: int) -> None:
    """From here on, torch computes with so many in this thread."""
    torch.get_num_threads()  # a thread's first call takes over whatever another one set last
    torch.set_num_threads(number)
