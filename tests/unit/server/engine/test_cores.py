"""Which thread computes with how many cores."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from paramem.settings import EngineKind, Settings
from server.engine.cores import helper_thread, use_cores


@pytest.fixture(autouse=True)
def _as_before() -> object:
    """What one thread sets, torch gives to those that come after it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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


def test_a_helper_has_one_core(tmp_path: Path) -> None:
    with helper_thread(Settings(home=tmp_path, device="cpu"), "helper") as helper:
        assert helper.submit(torch.get_num_threads).result() == 1


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
