"""What an application sees of the store: kept text, deletes, lists, selection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memory_store import (
    CodeFormat,
    ConflictError,
    InvalidCursorError,
    JobStatus,
    MemorySpec,
    MemoryStore,
    NotFoundError,
    QuantiserMissingError,
    StoreError,
    Tier,
    WorkerInfo,
    WriteMode,
    WriteRequest,
)
from tests.unit.memory_store.making import (
    SPEC,
    WORKER,
    Clock,
    key_of,
    open_store,
    passages_of,
    work,
    write,
)

# --- text


def test_text_that_is_not_kept_lives_only_as_long_as_its_jobs(store: MemoryStore) -> None:
    write(store, "my secret.", "d1", keep_text=False)
    assert store.jobs.depth() == 1
    assert store.stats().text_bytes > 0
    document = store.document("default", "d1")
    assert not document.has_text
    assert store.document_text("default", "d1") is None
    assert store.passage_texts([document.memories[0]]) == [None]
    work(store)
    assert store.stats().text_bytes == 0
    assert store.document("default", "d1").memories[0].tier is Tier.FIT


def test_text_that_is_not_kept_stays_for_a_failed_job(store: MemoryStore) -> None:
    store.submit(WriteRequest("my secret.", "d1", keep_text=False))
    (job,) = store.jobs.lease(WORKER, limit=1, lease_s=60.0)
    store.jobs.fail(job.job_id, WORKER, code="oom", message="", retryable=False)
    store.jobs.retry(job.job_id)
    assert [done.status for done in work(store)] == [JobStatus.SUCCEEDED] * 2
    assert store.stats().text_bytes == 0


def test_the_text_of_a_replaced_version_goes_with_its_memories(store: MemoryStore) -> None:
    write(store, "a" * 5000, "d1", mode=WriteMode.FAST)
    write(store, "b", "d1", mode=WriteMode.FAST)
    rows = store.stats().text_bytes
    store.delete_document("default", "d1")
    assert rows < 30
    assert store.stats().text_bytes == 0


def test_the_source_of_a_superseded_job_is_gone(store: MemoryStore) -> None:
    job = store.submit(WriteRequest("old", "d1", title="Old")).job
    source = store.document_source(job)
    assert (source.document_id, source.text, source.title) == ("d1", "old", "Old")
    store.submit(WriteRequest("new", "d1"))
    with pytest.raises(NotFoundError, match="version 1"):
        store.document_source(job)


# --- deleting


def test_a_deleted_document_is_never_served_again(store: MemoryStore) -> None:
    write(store, "some words", "d1")
    write(store, "other text", "d2")
    store.delete_document("default", "d1")
    assert [hit.memory.document_id for hit in store.select("default", key_of("some words"), 9)] == [
        "d2"
    ]
    with pytest.raises(NotFoundError, match="'d1'"):
        store.document("default", "d1")
    with pytest.raises(NotFoundError):
        store.delete_document("default", "d1")
    assert store.collection("default").documents == 1


def test_deleting_takes_old_versions_that_still_answer_with_it(store: MemoryStore) -> None:
    write(store, "old words.", "d1", mode=WriteMode.FAST)
    job = store.submit(WriteRequest("new words!", "d1")).job
    store.delete_document("default", "d1")
    assert store.select("default", key_of("old words."), 5) == []
    assert store.jobs.get(job.job_id).status is JobStatus.CANCELLED
    assert store.check() == []


def test_a_deleted_document_written_again_continues_its_versions(store: MemoryStore) -> None:
    write(store, "some words", "d1", mode=WriteMode.FAST)
    store.delete_document("default", "d1")
    store.compact()
    write(store, "some words", "d1", mode=WriteMode.FAST)
    assert store.document("default", "d1").version == 2


def test_a_deleted_collection_frees_its_name(store: MemoryStore) -> None:
    write(store, "some words", "d1")
    queued = store.submit(WriteRequest("other text", "d2")).job
    assert store.select("default", key_of("some words"), 1)
    store.delete_collection("default")
    with pytest.raises(NotFoundError):
        store.select("default", key_of("some words"), 1)
    assert store.jobs.get(queued.job_id).status is JobStatus.CANCELLED
    assert store.documents().items == []
    wider = MemorySpec("bundle-2", slots=2, z_dim=16)
    assert store.put_collection("default", wider).spec == wider
    assert store.select("default", np.ones(16, np.float32), 1) == []


# --- collections and lists


def test_the_same_spec_again_changes_nothing(store: MemoryStore) -> None:
    before = store.collection("default")
    assert store.put_collection("default", SPEC) == before


def test_another_spec_for_a_collection_is_refused_with_both(store: MemoryStore) -> None:
    other = MemorySpec("bundle-1", 2, 8, CodeFormat.INT8)
    with pytest.raises(ConflictError, match=r"bf16.*int8"):
        store.put_collection("default", other)


def test_rq_codes_are_read_only_with_the_quantiser_of_their_bundle(tmp_path: Path) -> None:
    spec = MemorySpec("bundle-1", 2, 8, CodeFormat.RQ)
    with open_store(tmp_path, spec=spec) as store:
        store.submit(WriteRequest("some text", "d1", mode=WriteMode.FAST))
        work(store, spec=spec)
        [hit] = store.select("default", np.ones(8, np.float32), 1)
        [codes] = store.load_codes([hit.memory])
        assert codes.shape == (2, 8)
        assert hit.memory.num_bytes == 2 * 6 + 4 + 2
    with MemoryStore.open(tmp_path) as store:
        [hit] = store.select("default", np.ones(8, np.float32), 1)
        with pytest.raises(QuantiserMissingError, match="bundle-1"):
            store.load_codes([hit.memory])
        with pytest.raises(QuantiserMissingError, match="bundle-2"):
            store.put_collection("other", MemorySpec("bundle-2", 2, 8, CodeFormat.RQ))


def test_a_collection_counts_what_is_live(store: MemoryStore) -> None:
    write(store, "a" * 25, "d1", mode=WriteMode.FAST)
    write(store, "b" * 5, "d2", mode=WriteMode.FAST)
    write(store, "c" * 15, "d1", mode=WriteMode.FAST)
    collection = store.collection("default")
    assert (collection.documents, collection.memories) == (2, 3)


def test_collections_are_listed_in_pages(store: MemoryStore) -> None:
    for name in ("b", "a"):
        store.put_collection(name, SPEC)
    page = store.collections(limit=2)
    assert [collection.name for collection in page.items] == ["a", "b"]
    rest = store.collections(limit=2, cursor=page.next_cursor)
    assert [collection.name for collection in rest.items] == ["default"]
    assert rest.next_cursor is None


def test_documents_are_listed_in_pages_that_survive_replacement(store: MemoryStore) -> None:
    for name in ("d3", "d1", "d2"):
        write(store, "some words", name, mode=WriteMode.FAST, metadata={"name": name})
    page = store.documents(collection="default", limit=2)
    write(store, "new words!", "d1", mode=WriteMode.FAST)
    write(store, "new words!", "d3", mode=WriteMode.FAST)
    rest = store.documents(collection="default", limit=2, cursor=page.next_cursor)
    assert [document.document_id for document in page.items] == ["d1", "d2"]
    assert [document.document_id for document in rest.items] == ["d3"]
    assert page.items[1].metadata == {"name": "d2"}
    assert [len(document.memories) for document in page.items] == [1, 1]
    assert page.items[0].num_bytes == 2 * 8 * 2 + 8 * 2


def test_a_list_of_an_unknown_collection_is_not_found(store: MemoryStore) -> None:
    with pytest.raises(NotFoundError):
        store.documents(collection="nowhere")


def test_a_cursor_of_another_list_is_refused(store: MemoryStore) -> None:
    for name in ("a", "b"):
        store.put_collection(name, SPEC)
    cursor = store.collections(limit=1).next_cursor
    with pytest.raises(InvalidCursorError):
        store.documents(cursor=cursor)


def test_ids_are_data_not_paths(store: MemoryStore, tmp_path: Path) -> None:
    hostile = ["../../etc/passwd", "a/b", "%00", "'; DROP TABLE documents; --", "ünï\u202ecode", ""]
    for name in hostile:
        write(store, f"text {name}", name, mode=WriteMode.FAST)
    assert {document.document_id for document in store.documents().items} == set(hostile)
    outside = {path.name for path in tmp_path.iterdir()} - {"home"}
    assert outside == set()
    store.delete_document("default", hostile[0])
    assert store.check() == []


# --- selecting and operating


def test_a_query_vector_that_does_not_fit_is_refused(store: MemoryStore) -> None:
    for bad in (np.ones(7, np.float32), np.full(8, np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"\(8,\)"):
            store.select("default", bad, 1)


def test_an_empty_collection_selects_nothing(store: MemoryStore) -> None:
    assert store.select("default", np.ones(8, np.float32), 5) == []


def test_the_codes_of_a_memory_replaced_meanwhile_are_its_successors(store: MemoryStore) -> None:
    write(store, "some words", "d1")
    (hit,) = store.select("default", key_of("some words"), 1)
    work(store)
    store.compact()
    (codes,) = store.load_codes([hit.memory])
    expected = passages_of("some words", Tier.FIT)[0].codes
    np.testing.assert_allclose(codes, expected, rtol=2**-8)


def test_the_codes_of_a_memory_deleted_meanwhile_are_not_found(store: MemoryStore) -> None:
    write(store, "some words", "d1")
    (hit,) = store.select("default", key_of("some words"), 1)
    store.delete_document("default", "d1")
    store.compact()
    with pytest.raises(NotFoundError, match="deleted meanwhile"):
        store.load_codes([hit.memory])


def test_workers_are_known_by_their_heartbeat(store: MemoryStore, clock: Clock) -> None:
    info = WorkerInfo("w1", "bundle-1", "idle", clock.now, clock.now)
    store.beat(info)
    clock.advance(20.0)
    late = WorkerInfo("w2", "bundle-1", "working", clock.now, clock.now)
    store.beat(late)
    assert store.workers(max_age_s=10.0) == [late]
    assert store.workers(max_age_s=30.0) == [info, late]
    store.forget_worker("w2")
    assert store.workers(max_age_s=30.0) == [info]


def test_stats_add_up(store: MemoryStore, clock: Clock) -> None:
    write(store, "a" * 25, "d1", mode=WriteMode.FAST)
    write(store, "b" * 15, "d1", mode=WriteMode.FAST)
    store.submit(WriteRequest("text", "d2"))
    clock.advance(7.0)
    stats = store.stats()
    assert (stats.documents, stats.memories, stats.live_rows, stats.dead_rows) == (2, 2, 2, 3)
    assert (stats.queued, stats.running, stats.dead) == (1, 0, 0)
    assert stats.oldest_queued_age_s == 7.0
    assert min(stats.shard_bytes, stats.text_bytes, stats.catalogue_bytes) > 0


def test_a_closed_store_says_so(store: MemoryStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.collections()
