"""The worker and jobs that it loses: deleted, cancelled, taken over, drained."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from memory_store.records import (
    Job,
    JobStatus,
    Tier,
)
from memory_store.store import MemoryStore
from tests.unit.trainer_worker.conftest import Clock
from tests.unit.trainer_worker.saboteur import (
    MakeWorker,
    Saboteur,
    Write,
    fail_with,
    on_poison,
    status,
)
from trainer_worker.drain import Drain
from trainer_worker.dummy_writer import DummyWriter
from trainer_worker.heartbeat import Heartbeat
from trainer_worker.worker import Abandoned
from trainer_worker.writer import Progress, SourceDocument, WriteError, Written


def test_a_document_deleted_or_replaced_meanwhile_leaves_its_job_cancelled(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    deleted, replaced, kept = write("one", "a"), write("two", "b"), write("three", "c")

    def meanwhile() -> None:
        store.delete_document("default", "a")
        write("two, again", "b")

    saboteur = Saboteur(dummy, meanwhile, lambda texts: "one" in texts)
    worker = make_worker(saboteur)
    assert worker.run_once()
    assert status(store, deleted) is JobStatus.CANCELLED
    assert status(store, replaced) is JobStatus.CANCELLED
    assert status(store, kept) is JobStatus.SUCCEEDED
    assert worker.run_once()
    (memory,) = store.document("default", "b").memories
    assert store.passage_texts([memory]) == ["two, again"]


def test_a_document_gone_before_it_is_read_is_cancelled_quietly(
    store: MemoryStore,
    dummy: DummyWriter,
    heartbeat: Heartbeat,
    make_worker: MakeWorker,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, kept = write("one", "a"), write("two", "b")
    source = store.document_source

    def just_deleted(asked: Job) -> object:
        if asked.document_id == "a":
            store.delete_document("default", "a")
        return source(asked)

    monkeypatch.setattr(store, "document_source", just_deleted)
    make_worker(dummy).run_once()
    assert status(store, job) is JobStatus.CANCELLED
    assert status(store, kept) is JobStatus.SUCCEEDED


def test_a_deleted_collection_cancels_the_batch(
    store: MemoryStore,
    dummy: DummyWriter,
    make_worker: MakeWorker,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = write("one")
    lease = store.jobs.lease

    def lease_then_delete(*args: object, **kwargs: object) -> list[Job]:
        jobs = lease(*args, **kwargs)  # type: ignore[arg-type]
        store.delete_collection("default")
        return jobs

    monkeypatch.setattr(store.jobs, "lease", lease_then_delete)
    assert make_worker(dummy).run_once()
    assert status(store, job) is JobStatus.CANCELLED


def test_a_cancelled_job_is_dropped_and_its_neighbour_is_stored(
    store: MemoryStore,
    heartbeat: Heartbeat,
    dummy: DummyWriter,
    make_worker: MakeWorker,
    write: Write,
) -> None:
    cancelled, kept = write("one", "a"), write("two", "b")

    def cancel() -> None:
        store.jobs.cancel(cancelled.job_id)
        heartbeat.beat()

    make_worker(Saboteur(dummy, cancel)).run_once()
    assert status(store, cancelled) is JobStatus.CANCELLED
    assert status(store, kept) is JobStatus.SUCCEEDED
    assert store.document("default", "a").memories == ()


def test_a_batch_that_nobody_wants_any_more_is_abandoned_and_the_worker_goes_on(
    store: MemoryStore,
    heartbeat: Heartbeat,
    dummy: DummyWriter,
    make_worker: MakeWorker,
    write: Write,
) -> None:
    jobs = [write("one"), write("two")]

    def cancel_all() -> None:
        for job in jobs:
            store.jobs.cancel(job.job_id)
        heartbeat.beat()

    writer = Saboteur(dummy, cancel_all, lambda texts: "one" in texts)
    finished: list[str] = []
    write_batch = dummy.write

    def watched(
        documents: Sequence[SourceDocument], tier: Tier, slots: int, progress: Progress
    ) -> list[Written | WriteError]:
        outcomes = write_batch(documents, tier, slots, progress)
        finished.extend(document.text for document in documents)
        return outcomes

    dummy.write = watched  # type: ignore[method-assign]
    worker = make_worker(writer)
    assert worker.run_once()
    assert finished == []  # the progress callback ended it
    later = write("three")
    assert worker.run_once()
    assert finished == ["three"]
    assert status(store, later) is JobStatus.SUCCEEDED


def test_one_lost_job_of_a_batch_taken_apart_does_not_abandon_the_others(
    store: MemoryStore,
    heartbeat: Heartbeat,
    dummy: DummyWriter,
    make_worker: MakeWorker,
    write: Write,
) -> None:
    lost, poison, kept = write("one"), write("poison"), write("three")

    def cancel_and_fail() -> None:
        if status(store, lost) is JobStatus.RUNNING:
            store.jobs.cancel(lost.job_id)
            heartbeat.beat()
        raise ValueError

    make_worker(Saboteur(dummy, cancel_and_fail, on_poison)).run_once()
    assert status(store, lost) is JobStatus.CANCELLED
    assert status(store, poison) is JobStatus.QUEUED
    assert status(store, kept) is JobStatus.SUCCEEDED


def test_a_lease_taken_over_is_not_written_by_the_late_worker(
    store: MemoryStore, clock: Clock, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    job = write("one", "a")

    def expire() -> None:
        clock.now += 3600
        assert store.jobs.lease("worker-2", limit=1, lease_s=60)

    make_worker(Saboteur(dummy, expire)).run_once()
    running = store.jobs.get(job.job_id)
    assert (running.status, running.lease_owner) == (JobStatus.RUNNING, "worker-2")
    assert store.document("default", "a").memories == ()


def test_a_drain_lets_the_running_batch_finish_and_takes_no_other(
    store: MemoryStore, drain: Drain, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    jobs = [write(f"text {number}") for number in range(20)]
    make_worker(Saboteur(dummy, drain.request)).run()
    assert [status(store, job) for job in jobs].count(JobStatus.SUCCEEDED) == 16
    assert store.jobs.depth() == 4


def test_a_drain_without_grace_left_abandons_the_batch(
    store: MemoryStore,
    heartbeat: Heartbeat,
    drain: Drain,
    dummy: DummyWriter,
    make_worker: MakeWorker,
    write: Write,
) -> None:
    job = write("text")
    writer = Saboteur(dummy, lambda: drain.request(at_once=True))
    with pytest.raises(Abandoned):
        make_worker(writer).run_once()
    heartbeat.sign_off()
    queued = store.jobs.get(job.job_id)
    assert (queued.status, queued.attempts) == (JobStatus.QUEUED, 0)


def test_a_bug_in_the_loop_itself_is_not_swallowed(
    dummy: DummyWriter, make_worker: MakeWorker, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.jobs, "lease", lambda *_, **__: fail_with(TypeError("bug"))())
    with pytest.raises(TypeError, match="bug"):
        make_worker(dummy).run()
