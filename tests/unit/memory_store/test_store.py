"""What an application sees of the store: writing, idempotency, limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memory_store import (
    CodeFormat,
    DiskFullError,
    FingerprintMismatchError,
    IdempotencyConflictError,
    JobStatus,
    MemorySpec,
    MemoryStore,
    NotFoundError,
    PassageMemory,
    QueueFullError,
    Tier,
    WorkerInfo,
    WriteMode,
    WriteRequest,
    WrittenDocument,
)
from tests.unit.memory_store.making import (
    INT8_SPEC,
    SPEC,
    WORKER,
    Clock,
    best,
    key_of,
    open_store,
    passage,
    work,
    write,
    written,
)

# --- writing


def test_a_written_document_is_selected_and_its_codes_load(store: MemoryStore) -> None:
    job = write(store, "first text" + "more words", "d1", title="One", mode=WriteMode.FAST)
    assert job.status is JobStatus.SUCCEEDED
    hits = store.select("default", key_of("more words"), 2)
    assert [(hit.memory.passage, hit.title) for hit in hits] == [(1, "One"), (0, "One")]
    assert hits[0].score == pytest.approx(1.0, abs=0.02)
    (codes,) = store.load_codes([hits[0].memory])
    assert codes.dtype == np.float32
    assert codes.shape == (2, 8)
    np.testing.assert_allclose(codes, passage("more words", salt=Tier.FAST).codes, rtol=2**-8)
    assert store.passage_texts([hits[0].memory]) == ["more words"]


def test_memories_of_several_formats_load_together_in_order(store: MemoryStore) -> None:
    memories = []
    for code_format in CodeFormat:
        spec = replace(SPEC, code_format=code_format)
        store.put_collection(code_format, spec)
        store.submit(WriteRequest("first text" + "more words", "d1", collection=code_format))
        work(store, tiers=(Tier.FAST,), spec=spec)
        memories += store.document(code_format, "d1").memories
    mixed = memories[::2] + memories[1::2]
    together = store.load_codes(mixed)
    assert len(together) == 2 * len(CodeFormat)
    for codes, memory in zip(together, mixed, strict=True):
        (alone,) = store.load_codes([memory])
        np.testing.assert_array_equal(codes, alone)
    assert store.load_codes([]) == []


def test_int8_collections_hold_the_same_memories(tmp_path: Path) -> None:
    with open_store(tmp_path, spec=INT8_SPEC) as store:
        store.submit(WriteRequest("some text.", "d1", mode=WriteMode.FAST))
        work(store, spec=INT8_SPEC)
        (hit,) = store.select("default", key_of("some text."), 3)
        (codes,) = store.load_codes([hit.memory])
    np.testing.assert_allclose(codes, passage("some text.", salt=Tier.FAST).codes, atol=0.02)
    assert hit.memory.num_bytes == 2 * 8 + 2 * 2 + 8 + 2


def test_a_document_without_an_id_gets_one(store: MemoryStore) -> None:
    ids = {store.submit(WriteRequest("text")).job.document_id for _ in range(3)}
    assert len(ids) == 3
    assert all(made.startswith("doc_") for made in ids)


def test_the_fit_of_mode_auto_replaces_the_fast_memories(store: MemoryStore) -> None:
    write(store, "first textmore words", "d1")
    assert {m.tier for m in store.document("default", "d1").memories} == {Tier.FAST}
    work(store)
    document = store.document("default", "d1")
    assert [(m.tier, m.passage) for m in document.memories] == [(Tier.FIT, 0), (Tier.FIT, 1)]
    assert best(store, "more words", Tier.FIT) == ("d1", 1)
    assert store.select("default", key_of("more words"), 9)[0].score < 0.99


def test_a_replaced_document_answers_from_its_new_text(store: MemoryStore) -> None:
    write(store, "old words.", "d1", mode=WriteMode.FAST, title="old")
    write(store, "new words!", "d1", mode=WriteMode.FAST, title="new")
    (hit,) = store.select("default", key_of("old words."), 5)
    assert (hit.memory.version, hit.title) == (2, "new")
    assert store.passage_texts([hit.memory]) == ["new words!"]
    assert store.document_text("default", "d1") == "new words!"


def test_the_old_memories_answer_until_the_new_ones_are_there(store: MemoryStore) -> None:
    write(store, "old words.", "d1", mode=WriteMode.FAST, title="old")
    store.submit(WriteRequest("new words!", "d1", title="new", mode=WriteMode.FAST))
    document = store.document("default", "d1")
    assert (document.version, [m.version for m in document.memories]) == (2, [1])
    (hit,) = store.select("default", key_of("old words."), 5)
    assert (hit.title, store.passage_texts([hit.memory])) == ("old", ["old words."])
    assert store.collection("default").documents == 1


def test_replacing_cancels_the_jobs_of_the_old_version(store: MemoryStore) -> None:
    queued = store.submit(WriteRequest("old words.", "d1")).job
    store.submit(WriteRequest("new words!", "d1"))
    cancelled = store.jobs.get(queued.job_id)
    assert (cancelled.status, cancelled.error_code) == (JobStatus.CANCELLED, "superseded")


def test_a_document_superseded_while_it_is_written_ends_cancelled(store: MemoryStore) -> None:
    store.submit(WriteRequest("old words.", "d1"))
    (running,) = store.jobs.lease(WORKER, limit=1, lease_s=60.0)
    outcome = written(store, running)
    store.submit(WriteRequest("new words!", "d1"))
    (job,) = store.commit([outcome], SPEC, WORKER)
    assert job.status is JobStatus.CANCELLED
    assert store.document("default", "d1").memories == ()
    assert store.stats().shard_bytes == 0
    assert store.check() == []


def test_a_document_deleted_while_it_is_written_stays_deleted(store: MemoryStore) -> None:
    store.submit(WriteRequest("old words.", "d1"))
    store.submit(WriteRequest("other words", "d2"))
    running = store.jobs.lease(WORKER, limit=2, lease_s=60.0)
    outcomes = [written(store, job) for job in running]
    store.delete_document("default", "d1")
    jobs = store.commit(outcomes, SPEC, WORKER)
    assert [job.status for job in jobs] == [JobStatus.CANCELLED, JobStatus.SUCCEEDED]
    assert best(store, "old words.")[0] == "d2"
    assert store.check() == []


def test_a_worker_that_lost_its_lease_stores_nothing(store: MemoryStore, clock: Clock) -> None:
    store.submit(WriteRequest("some words", "d1", mode=WriteMode.FAST))
    (slow,) = store.jobs.lease("slow", limit=1, lease_s=10.0)
    outcome = written(store, slow)
    clock.advance(11.0)
    (mine,) = store.jobs.lease("quick", limit=1, lease_s=10.0)
    (left_alone,) = store.commit([outcome], SPEC, "slow")
    assert (left_alone.status, left_alone.lease_owner) == (JobStatus.RUNNING, "quick")
    assert store.document("default", "d1").memories == ()
    (done,) = store.commit([written(store, mine)], SPEC, "quick")
    assert done.status is JobStatus.SUCCEEDED
    assert len(store.document("default", "d1").memories) == 1


def test_committing_twice_stores_once(store: MemoryStore) -> None:
    store.submit(WriteRequest("some words", "d1"))
    (job,) = store.jobs.lease(WORKER, limit=1, lease_s=60.0)
    outcome = written(store, job)
    first, again = (store.commit([outcome], SPEC, WORKER)[0] for _ in range(2))
    assert first == again
    assert len(store.document("default", "d1").memories) == 1
    assert store.jobs.depth() == 1


def test_one_document_that_cannot_be_stored_fails_alone(store: MemoryStore) -> None:
    for name in ("good", "nan", "shape"):
        store.submit(WriteRequest("some words", name, mode=WriteMode.FAST))
    jobs = store.jobs.lease(WORKER, limit=3, lease_s=60.0)
    made = passage("some words")
    nan = PassageMemory(made.codes * np.float32(np.nan), made.key, 0, 10, 2)
    shape = PassageMemory(made.codes[:1], made.key, 0, 10, 2)
    batch = [WrittenDocument(job, [p], {}) for job, p in zip(jobs, (made, nan, shape), strict=True)]
    done = store.commit(batch, SPEC, WORKER)
    assert [(job.status, job.error_code) for job in done] == [
        (JobStatus.SUCCEEDED, None),
        (JobStatus.FAILED, "invalid_memory"),
        (JobStatus.FAILED, "invalid_memory"),
    ]
    assert "(1, 8)" in str(done[2].error_message)
    assert len(store.select("default", made.key, 5)) == 1


def test_a_document_without_passages_succeeds_without_memories(store: MemoryStore) -> None:
    write(store, "", "d1")
    assert store.document("default", "d1").memories == ()
    assert store.jobs.depth() == 0
    assert store.check() == []


def test_memories_of_another_bundle_are_refused(store: MemoryStore) -> None:
    store.submit(WriteRequest("some words", "d1"))
    (job,) = store.jobs.lease(WORKER, limit=1, lease_s=60.0)
    other = MemorySpec("bundle-2", SPEC.slots, SPEC.z_dim)
    with pytest.raises(FingerprintMismatchError, match=r"bundle-1 .* bundle-2"):
        store.commit([written(store, job)], other, WORKER)
    assert store.jobs.get(job.job_id).status is JobStatus.RUNNING


def test_writing_into_an_unknown_collection_says_how_to_create_it(store: MemoryStore) -> None:
    with pytest.raises(NotFoundError, match="PUT /collections/nowhere"):
        store.submit(WriteRequest("text", collection="nowhere"))


# --- idempotency and limits


def test_the_same_key_and_body_is_one_write(store: MemoryStore) -> None:
    request = WriteRequest("text", metadata={"a": 1, "b": 2})
    first = store.submit(request, idempotency_key="k1")
    same = WriteRequest("text", metadata={"b": 2, "a": 1})
    again = store.submit(same, idempotency_key="k1")
    assert (first.created, again.created) == (True, False)
    assert again.job == first.job
    assert store.jobs.depth() == 1


def test_the_same_key_with_another_body_is_refused(store: MemoryStore) -> None:
    store.submit(WriteRequest("text"), idempotency_key="k1")
    with pytest.raises(IdempotencyConflictError):
        store.submit(WriteRequest("other"), idempotency_key="k1")


def test_a_full_queue_refuses_but_answers_a_repeated_write(tmp_path: Path) -> None:
    with open_store(tmp_path, max_queue=1) as store:
        request = WriteRequest("text", "d1")
        first = store.submit(request, idempotency_key="k1")
        with pytest.raises(QueueFullError) as refused:
            store.submit(WriteRequest("other", "d2"))
        assert refused.value.retry_after_s >= 1.0
        assert store.submit(request, idempotency_key="k1").job == first.job
        assert [document.document_id for document in store.documents().items] == ["d1"]


def test_retry_after_follows_the_measured_pace(store: MemoryStore, clock: Clock) -> None:
    store.submit(WriteRequest("text", "d0", mode=WriteMode.FAST))
    (job,) = store.jobs.lease(WORKER, limit=1, lease_s=60.0)
    clock.advance(8.0)
    store.commit([written(store, job)], SPEC, WORKER)
    for number in range(5):
        store.submit(WriteRequest("text", f"d{number}"))
    assert store.jobs.retry_after_s() == pytest.approx(40.0)
    for worker in ("a", "b"):
        store.beat(WorkerInfo(worker, "bundle-1", "idle", clock.now, clock.now))
    assert store.jobs.retry_after_s() == pytest.approx(20.0)


def test_below_the_disk_floor_writes_are_refused(tmp_path: Path) -> None:
    with open_store(tmp_path, disk_floor_bytes=1 << 60) as store:
        with pytest.raises(DiskFullError, match="disk_floor_bytes"):
            store.submit(WriteRequest("text", "d1"))
        assert store.documents().items == []
        assert 0 < store.free_bytes() < 1 << 60
