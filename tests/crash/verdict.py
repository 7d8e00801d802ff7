"""What must hold of a home, whatever happened to the process that worked on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memory_store import JobStatus, MemoryStore, Tier
from tests.crash.store_process import DOCUMENTS, submit
from tests.unit.memory_store.making import Clock, key_of, open_store, work


def assert_nothing_lost(home: Path, acknowledged: Sequence[str], *, send_again: bool) -> None:
    """A fresh open finds nothing amiss, every acknowledged document, and can finish the work.

    Args:
        send_again: as a client does that saw no answer.
    """
    clock = Clock()
    clock.now = 4e9  # every lease of the dead process has expired
    with open_store(home, clock=clock, orphan_grace_s=0.0) as store:
        assert store.check() == []
        listed = {document.document_id for document in store.documents().items}
        assert set(acknowledged) <= listed
        for name in acknowledged:
            assert remembered_or_queued(store, name)
        if send_again:
            submit(store)
        work(store)
        for name in DOCUMENTS:
            document = store.document("default", name)
            assert [(m.passage, m.tier) for m in document.memories] == [(0, Tier.FIT)]
            hits = store.select("default", key_of(f"text of {name}", Tier.FIT), 50)
            assert len(hits) == len(DOCUMENTS)
            assert hits[0].memory.document_id == name
            assert len(store.load_codes([hit.memory for hit in hits])) == len(DOCUMENTS)
        store.compact()
        assert store.check() == []
        assert store.stats().dead_rows == 0


def remembered_or_queued(store: MemoryStore, name: str) -> bool:
    jobs = [job for job in store.jobs.list(limit=100).items if job.document_id == name]
    return bool(store.document("default", name).memories) or any(
        job.status in (JobStatus.QUEUED, JobStatus.RUNNING) for job in jobs
    )
