"""Writing to a home as server and worker do, without either: to fill one for a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memory_store import (
    Job,
    MemorySpec,
    MemoryStore,
    PassageMemory,
    WriteMode,
    WriteRequest,
    WrittenDocument,
)

WORKER = "benchmark"
LEASE_S = 3600.0


def write_together(
    store: MemoryStore,
    spec: MemorySpec,
    requests: Sequence[WriteRequest],
    remember: Callable[[Job], Sequence[PassageMemory]],
) -> None:
    """Submit documents of mode ``fast`` and commit their memories, all in one shard."""
    assert all(request.mode is WriteMode.FAST for request in requests), "nothing refines here"
    for request in requests:
        store.submit(request)
    jobs = store.jobs.lease(WORKER, limit=len(requests), lease_s=LEASE_S)
    store.commit([WrittenDocument(job, remember(job), {}) for job in jobs], spec, WORKER)
