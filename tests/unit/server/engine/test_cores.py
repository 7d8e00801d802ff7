"""Which thread computes with how many cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from paramem.settings import EngineKind, Settings
from server.engine import cores
from server.engine.cores import CORES, Cores, helper_thread, use_cores

FOREVER_S = 60.0


@pytest.fixture(autouse=True)
def _as_before() -> object:
    """What one thread sets, torch gives to those that come after it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """A thread that computes beside the engine's, which is the test's own."""
    with ThreadPoolExecutor(1) as thread:
        yield thread


def seen_after(work: Callable[[], None], between: Callable[[], None]) -> int:
    """How many cores a thread computes with that does ``work``, then waits for ``between``."""
    found: list[int] = []
    worked, go_on = threading.Event(), threading.Event()

    def run() -> None:
        work()
        worked.set()
        go_on.wait()
        torch.ones(1 << 16).add(1).sum()  # in parallel, if it may
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=run)
    thread.start()
    worked.wait()
    between()
    go_on.set()
    thread.join()
    return found[0]


class Taker:
    """Takes a core in another thread until it is told to go."""

    def __init__(self, shared: Cores, thread: ThreadPoolExecutor) -> None:
        self.has_it, self._go = threading.Event(), threading.Event()
        self._shared = shared
        self._done: Future[None] = thread.submit(self._run)

    def _run(self) -> None:
        with self._shared.one_taken():
            self.has_it.set()
            self._go.wait(FOREVER_S)

    def go(self) -> None:
        self._go.set()
        self._done.result(FOREVER_S)


def test_who_takes_a_core_has_it_once_the_engine_has_given_it_up(
    beside: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "PATIENCE_S", FOREVER_S)
    shared = Cores()
    with shared.computing(3):
        assert torch.get_num_threads() == 3
        taker = Taker(shared, beside)
        assert not taker.has_it.wait(0.05)
        shared.give_way()
        assert torch.get_num_threads() == 2
        assert taker.has_it.wait(FOREVER_S)
        taker.go()
        assert torch.get_num_threads() == 2
        shared.give_way()
        assert torch.get_num_threads() == 3


def test_a_forward_begins_without_the_cores_that_are_taken(beside: ThreadPoolExecutor) -> None:
    shared = Cores()
    taker = Taker(shared, beside)
    assert taker.has_it.wait(FOREVER_S)  # nobody computes: at once
    with shared.computing(2):
        assert torch.get_num_threads() == 1
    taker.go()
    with shared.computing(2):
        assert torch.get_num_threads() == 2


def test_the_last_core_is_not_given_up(beside: ThreadPoolExecutor) -> None:
    shared = Cores()
    with shared.computing(1):
        taker = Taker(shared, beside)
        while not taker.has_it.is_set():
            shared.give_way()
        assert torch.get_num_threads() == 1
        taker.go()


def test_a_forward_that_ends_gives_up_all_but_one(
    beside: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "PATIENCE_S", FOREVER_S)
    shared = Cores()
    with shared.computing(2):
        taker = Taker(shared, beside)
        assert not taker.has_it.wait(0.05)
    assert torch.get_num_threads() == 1
    assert taker.has_it.wait(FOREVER_S)
    taker.go()


def test_nobody_waits_long_for_a_model_that_gives_up_nothing(beside: ThreadPoolExecutor) -> None:
    shared = Cores()
    with shared.computing(2):
        taker = Taker(shared, beside)
        assert taker.has_it.wait(FOREVER_S)
        taker.go()


def test_giving_way_between_forwards_changes_nothing(beside: ThreadPoolExecutor) -> None:
    shared = Cores()
    torch.set_num_threads(2)
    taker = Taker(shared, beside)
    assert taker.has_it.wait(FOREVER_S)
    shared.give_way()
    assert torch.get_num_threads() == 2
    taker.go()


def test_a_helper_has_one_core_and_takes_it_from_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "PATIENCE_S", FOREVER_S)
    with helper_thread(Settings(home=tmp_path, device="cpu"), "helper") as helper:
        assert helper.submit(torch.get_num_threads).result() == 1
        with CORES.computing(2):
            called = helper.submit(torch.get_num_threads)
            while not called.done():
                CORES.give_way()
            assert called.result() == 1
            CORES.give_way()
            assert torch.get_num_threads() == 2


def test_a_helper_whose_call_fails_gives_its_core_back(tmp_path: Path) -> None:
    with helper_thread(Settings(home=tmp_path, device="cpu"), "helper") as helper:
        with pytest.raises(ZeroDivisionError):
            helper.submit(divmod, 1, 0).result()
        with CORES.computing(2):
            assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("engine", "device"),
    [(EngineKind.VLLM, "cpu"), (EngineKind.TRANSFORMERS, "cuda")],
    ids=["in another process", "on an accelerator"],
)
def test_a_helper_has_all_where_the_llm_computes_elsewhere(
    tmp_path: Path, engine: EngineKind, device: str
) -> None:
    torch.set_num_threads(3)
    with helper_thread(Settings(home=tmp_path, engine=engine, device=device), "helper") as helper:
        assert helper.submit(torch.get_num_threads).result() == 3


@pytest.mark.parametrize(("own", "others"), [(3, 1), (1, 3)])
def test_a_thread_keeps_its_cores_whatever_another_sets_before_it_computes(
    own: int, others: int
) -> None:
    assert seen_after(lambda: use_cores(own), lambda: torch.set_num_threads(others)) == own
