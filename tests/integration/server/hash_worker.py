"""A worker for tests: writes hashed memories, a passage a paragraph, without a process or model."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from memory_model.hashing import DUMMY_FINGERPRINT, hash_codes, hash_words
from memory_store.records import Job, MemorySpec, PassageMemory, WorkerInfo, WrittenDocument
from memory_store.store import MemoryStore

SPEC = MemorySpec(DUMMY_FINGERPRINT, slots=4, z_dim=64)
RESULT = {"loss": 0.5, "steps": 7, "token_accuracy": 0.75}
WORKER = "test-worker"


def beat(
    store: MemoryStore,
    *,
    fingerprint: str = DUMMY_FINGERPRINT,
    state: str = "idle",
    age_s: float = 0.0,
    worker_id: str = WORKER,
) -> None:
    now = time.time()
    store.beat(WorkerInfo(worker_id, fingerprint, state, now - age_s, now - age_s))


def passages(text: str, spec: MemorySpec = SPEC) -> list[PassageMemory]:
    found, start = [], 0
    for paragraph in text.split("\n\n"):
        found.append(
            PassageMemory(
                codes=hash_codes(paragraph, spec.slots, spec.z_dim),
                key=hash_words(paragraph, spec.z_dim),
                text_start=start,
                text_end=start + len(paragraph),
                num_tokens=max(1, len(paragraph.split())),
            )
        )
        start += len(paragraph) + 2
    return found


def work_once(store: MemoryStore) -> list[Job]:
    """Lease one batch of jobs and commit it."""
    jobs = store.jobs.lease(WORKER, limit=16, lease_s=30.0)
    if not jobs:
        return []
    spec = store.collection(jobs[0].collection).spec
    written = [
        WrittenDocument(job, passages(store.document_source(job).text, spec), dict(RESULT))
        for job in jobs
    ]
    return store.commit(written, spec, WORKER)


def work_all(store: MemoryStore) -> None:
    while work_once(store):
        pass


class HashWorker:
    """Works in a thread until the block is left."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        beat(self._store)
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not work_once(self._store):
                self._stop.wait(0.01)
