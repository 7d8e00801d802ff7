"""A home, a store on it, and workers in processes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory_store.store import MemoryStore
from tests.crash.worker_process import open_store, start_worker

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[MemoryStore]:
    with open_store(home) as store:
        yield store


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Start a worker on ``home``; whatever is left of it at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**settings: object) -> subprocess.Popen[bytes]:
        started.append(start_worker(home, **settings))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
