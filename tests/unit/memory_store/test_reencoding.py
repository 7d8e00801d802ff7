"""Re-encoding: every document again, once, and nothing lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_store import (
    ConflictError,
    MemorySpec,
    MemoryStore,
    NotFoundError,
    WriteMode,
    WriteRequest,
)
from memory_store.reencoding import ReencodingReport, reencode
from tests.unit.memory_store.making import open_store, work, write

NEW = MemorySpec("bundle-2", slots=2, z_dim=8)


@pytest.fixture
def two(store: MemoryStore) -> MemoryStore:
    """``default`` with three documents, one of them without its text; and an empty ``new``."""
    for number in range(2):
        metadata = {"number": number}
        write(store, f"text {number}", f"d{number}", title=f"Title {number}", metadata=metadata)
    store.submit(WriteRequest("gone", "d2", keep_text=False, mode=WriteMode.FAST))
    work(store)
    store.put_collection("new", NEW)
    return store


def test_documents_come_over_with_everything_but_their_memories(two: MemoryStore) -> None:
    assert reencode(two, "default", "new", mode=WriteMode.FAST) == ReencodingReport(2, ("d2",))
    work(two, spec=NEW)
    for number in range(2):
        document = two.document("new", f"d{number}")
        assert (document.title, document.metadata) == (f"Title {number}", {"number": number})
        assert two.document_text("new", f"d{number}") == f"text {number}"
        assert {memory.fingerprint for memory in document.memories} == {"bundle-2"}
    old = two.document("default", "d0")
    assert {memory.fingerprint for memory in old.memories} == {"bundle-1"}


def test_old_memories_are_read_until_their_collection_is_deleted(two: MemoryStore) -> None:
    def old_codes() -> list[bytes]:
        found = [two.document("default", f"d{number}").memories for number in range(3)]
        return [code.tobytes() for memories in found for code in two.load_codes(memories)]

    before = old_codes()
    reencode(two, "default", "new", mode=WriteMode.FAST)
    assert old_codes() == before
    work(two, spec=NEW, limit=1)
    two.compact()
    assert old_codes() == before
    assert two.check() == []
    two.delete_collection("default")
    two.compact()
    assert {memory.fingerprint for memory in two.document("new", "d0").memories} == {"bundle-2"}
    assert len(two.load_codes(two.document("new", "d0").memories)) == 1


def test_repeating_queues_nothing_twice(two: MemoryStore) -> None:
    before = two.jobs.depth()
    reencode(two, "default", "new")
    queued = two.jobs.depth() - before
    reencode(two, "default", "new")
    assert two.jobs.depth() - before == queued == 2


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    waits: list[float] = []
    with open_store(tmp_path, max_queue=2) as store:
        for number in range(3):
            store.submit(WriteRequest(f"text {number}", f"d{number}", mode=WriteMode.FAST))
            work(store)
        store.put_collection("new", NEW)

        def wait(seconds: float) -> None:
            waits.append(seconds)
            work(store, spec=NEW)

        assert reencode(store, "default", "new", mode=WriteMode.FAST, sleep=wait).queued == 3
        work(store, spec=NEW)
        assert store.collection("new").documents == 3
    assert waits


def test_both_collections_must_exist_and_differ(two: MemoryStore) -> None:
    with pytest.raises(NotFoundError):
        reencode(two, "default", "nowhere")
    with pytest.raises(NotFoundError):
        reencode(two, "nowhere", "new")
    with pytest.raises(ConflictError, match="same collection"):
        reencode(two, "new", "new")
