"""A store with a clock that tests turn, and workers on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory_store.records import CodeFormat, Job, MemorySpec, WriteMode, WriteRequest
from memory_store.store import MemoryStore
from paramem.settings import Settings
from trainer_worker.drain import Drain
from trainer_worker.dummy_writer import DummyWriter
from trainer_worker.heartbeat import Heartbeat
from trainer_worker.worker import Worker
from trainer_worker.writer import MemoryWriter

SPEC = MemorySpec(fingerprint="dummy-1", slots=4, z_dim=32, code_format=CodeFormat.BF16)


class Clock:
    """Unix seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings() -> Settings:
    return Settings(slots=4, z_dim=32, poll_s=0.01, heartbeat_s=0.01, shutdown_grace_s=30)


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[MemoryStore]:
    with MemoryStore.open(tmp_path / "home", clock=clock) as store:
        store.put_collection("default", SPEC)
        yield store


@pytest.fixture
def dummy(settings: Settings) -> DummyWriter:
    return DummyWriter.from_settings(settings)


@pytest.fixture
def heartbeat(store: MemoryStore) -> Heartbeat:
    """Beats only when told to."""
    return Heartbeat(store, "worker-1", every_s=1, lease_s=60)


@pytest.fixture
def drain() -> Drain:
    return Drain(30)


@pytest.fixture
def make_worker(
    store: MemoryStore, heartbeat: Heartbeat, drain: Drain, settings: Settings
) -> Callable[[MemoryWriter], Worker]:
    return lambda writer: Worker(store, writer, heartbeat, drain, settings)


@pytest.fixture
def write(store: MemoryStore) -> Callable[..., Job]:
    def write(text: str, document_id: str | None = None, mode: WriteMode = WriteMode.FAST) -> Job:
        request = WriteRequest(text=text, document_id=document_id, mode=mode)
        return store.submit(request).job

    return write
