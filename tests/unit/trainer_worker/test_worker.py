"""The worker's loop: what becomes of each job, whatever happens around it."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import structlog

from memory_store.errors import DiskFullError
from memory_store.records import (
    CodeFormat,
    Job,
    JobStatus,
    MemorySpec,
    Tier,
    WriteMode,
    WriteRequest,
)
from memory_store.store import MemoryStore
from tests.unit.trainer_worker.conftest import SPEC, Clock
from trainer_worker.drain import Drain
from trainer_worker.dummy_writer import UNWRITABLE, DummyWriter
from trainer_worker.heartbeat import Heartbeat
from trainer_worker.worker import Abandoned, Worker
from trainer_worker.writer import Progress, SourceDocument, WriteError, Written

MakeWorker = Callable[..., Worker]
Write = Callable[..., Job]


class Saboteur:
    """The dummy writer, with something happening to the batches that ``trigger`` picks."""

    def __init__(
        self,
        dummy: DummyWriter,
        act: Callable[[], None],
        trigger: Callable[[list[str]], bool] = lambda _texts: True,
    ) -> None:
        self.spec: MemorySpec = dummy.spec
        self.batches: list[list[str]] = []
        self._dummy = dummy
        self._act = act
        self._trigger = trigger

    def write(
        self, documents: Sequence[SourceDocument], tier: Tier, progress: Progress
    ) -> list[Written | WriteError]:
        texts = [document.text for document in documents]
        self.batches.append(texts)
        if self._trigger(texts):
            self._act()
        return self._dummy.write(documents, tier, progress)


def fail_with(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def on_poison(texts: list[str]) -> bool:
    return any("poison" in text for text in texts)


def status(store: MemoryStore, job: Job) -> JobStatus:
    return store.jobs.get(job.job_id).status


def test_documents_become_memories_batch_by_batch(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    jobs = [write(f"text number {number}", f"d{number}") for number in range(20)]
    worker = make_worker(dummy)
    assert [worker.run_once(), worker.run_once(), worker.run_once()] == [True, True, False]
    assert {status(store, job) for job in jobs} == {JobStatus.SUCCEEDED}
    (memory,) = store.document("default", "d7").memories
    assert memory.tier is Tier.FAST
    assert store.passage_text(memory) == "text number 7"
    assert store.jobs.get(jobs[7].job_id).result == {
        "passages": 1,
        "tokens": 3,
        "loss": 2.0,
        "perplexity": pytest.approx(7.389, abs=1e-3),
        "token_accuracy": pytest.approx(0.135, abs=1e-3),
        "steps": 0,
    }


def test_auto_is_written_fast_first_and_refined_behind(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    job = write("text", "a", mode=WriteMode.AUTO)
    later = write("other text", "b")
    worker = make_worker(dummy)
    assert worker.run_once()
    refining = store.jobs.get(job.job_id).refine_job_id
    assert refining is not None
    assert status(store, later) is JobStatus.SUCCEEDED
    assert [memory.tier for memory in store.document("default", "a").memories] == [Tier.FAST]
    assert worker.run_once()
    assert store.jobs.get(refining).status is JobStatus.SUCCEEDED
    assert [memory.tier for memory in store.document("default", "a").memories] == [Tier.FIT]


def test_a_refused_document_fails_with_the_writers_code_and_is_not_tried_again(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    bad, good = write(f"bad {UNWRITABLE}"), write("good")
    worker = make_worker(dummy)
    assert worker.run_once()
    failed = store.jobs.get(bad.job_id)
    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "unwritable")
    assert status(store, good) is JobStatus.SUCCEEDED
    assert not worker.run_once()


def test_a_refusal_that_is_raised_counts_as_one_that_is_returned(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    bad, good = write("poison"), write("good")
    refusing = Saboteur(dummy, fail_with(WriteError("too_strange", "no")), on_poison)
    make_worker(refusing).run_once()
    failed = store.jobs.get(bad.job_id)
    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "too_strange")
    assert status(store, good) is JobStatus.SUCCEEDED


def test_a_poison_document_dies_after_its_attempts_and_takes_nobody_with_it(
    store: MemoryStore, clock: Clock, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    jobs = [write("poison" if number == 2 else f"good {number}") for number in range(5)]
    writer = Saboteur(dummy, fail_with(ValueError("poison in the text")), on_poison)
    worker = make_worker(writer)
    assert worker.run_once()
    assert [len(batch) for batch in writer.batches] == [5, 1, 1, 1, 1, 1]
    poison = store.jobs.get(jobs[2].job_id)
    assert (poison.status, poison.attempts) == (JobStatus.QUEUED, 1)
    assert {status(store, job) for job in jobs if job != jobs[2]} == {JobStatus.SUCCEEDED}
    for _ in range(2):
        clock.now += 3600
        assert worker.run_once()
    dead = store.jobs.get(jobs[2].job_id)
    assert (dead.status, dead.error_code) == (JobStatus.DEAD, "writer_error")
    clock.now += 3600
    assert not worker.run_once()


def test_neither_log_nor_job_quotes_the_document(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    job = write("poison: the secret recipe")
    error = ValueError("cannot write 'poison: the secret recipe'")
    with structlog.testing.capture_logs() as logs:
        make_worker(Saboteur(dummy, fail_with(error))).run_once()
    assert "secret" not in json.dumps(logs, default=repr)
    assert "secret" not in str(store.jobs.get(job.job_id))
    (warning,) = [entry for entry in logs if entry["event"] == "write_failed"]
    assert warning["error"] == "ValueError"
    assert "fail_with" in warning["frames"] or "act" in warning["frames"]


def test_each_batch_leaves_one_line_in_the_log(
    dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    for text in ("one", "two", f"three {UNWRITABLE}"):
        write(text)
    with structlog.testing.capture_logs() as logs:
        make_worker(dummy).run_once()
    (line,) = [entry for entry in logs if entry["event"] == "batch"]
    assert (line["tier"], line["documents"], line["passages"], line["failed"]) == ("fast", 2, 2, 1)
    assert line["seconds"] >= 0


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError()])
def test_out_of_memory_halves_the_batch(
    store: MemoryStore,
    dummy: DummyWriter,
    make_worker: MakeWorker,
    write: Write,
    error: Exception,
) -> None:
    jobs = [write(f"text {number}") for number in range(8)]
    writer = Saboteur(dummy, fail_with(error), lambda texts: len(texts) > 2)
    assert make_worker(writer).run_once()
    assert [len(batch) for batch in writer.batches] == [8, 4, 2, 2, 4, 2, 2]
    assert {status(store, job) for job in jobs} == {JobStatus.SUCCEEDED}


def test_a_document_too_large_for_memory_alone_is_tried_again_later(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    job = write("text")
    make_worker(Saboteur(dummy, fail_with(MemoryError()))).run_once()
    queued = store.jobs.get(job.job_id)
    assert (queued.status, queued.error_code) == (JobStatus.QUEUED, "out_of_memory")


@pytest.mark.parametrize(
    "error",
    [
        DiskFullError("no space"),
        OSError(errno.ENOSPC, "no space left on device"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_a_full_disk_gives_the_jobs_back_without_counting_the_attempt(
    store: MemoryStore,
    dummy: DummyWriter,
    make_worker: MakeWorker,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    jobs = [write(f"text {number}") for number in range(3)]
    worker = make_worker(dummy)
    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", lambda *_: fail_with(error)())
        with pytest.raises(type(error)):
            worker.run_once()
    for job in jobs:
        queued = store.jobs.get(job.job_id)
        assert (queued.status, queued.attempts) == (JobStatus.QUEUED, 0)
    assert worker.run_once()
    assert {status(store, job) for job in jobs} == {JobStatus.SUCCEEDED}


def test_the_loop_outlives_a_full_disk(
    store: MemoryStore,
    dummy: DummyWriter,
    drain: Drain,
    make_worker: MakeWorker,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = write("text")
    commit = store.commit
    failures = iter([DiskFullError("no space"), sqlite3.OperationalError("database is locked")])

    def flaky(*args: object) -> list[Job]:
        for error in failures:
            raise error
        drain.request()
        return commit(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "commit", flaky)
    make_worker(dummy).run()
    done = store.jobs.get(job.job_id)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)


def test_another_bundles_collection_is_refused_with_both_values(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker
) -> None:
    store.put_collection("other", MemorySpec("bundle-9", slots=4, z_dim=32))
    job = store.submit(WriteRequest(text="text", collection="other", mode=WriteMode.FAST)).job
    assert make_worker(dummy).run_once()
    failed = store.jobs.get(job.job_id)
    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "fingerprint_mismatch")
    assert failed.error_message is not None
    assert "bundle-9" in failed.error_message
    assert SPEC.fingerprint in failed.error_message


def test_a_collections_code_format_may_differ_from_the_workers(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker
) -> None:
    store.put_collection("small", replace(SPEC, code_format=CodeFormat.INT8))
    job = store.submit(WriteRequest(text="text", collection="small", mode=WriteMode.FAST)).job
    assert make_worker(dummy).run_once()
    assert status(store, job) is JobStatus.SUCCEEDED


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
    assert store.passage_text(memory) == "two, again"


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
        documents: Sequence[SourceDocument], tier: Tier, progress: Progress
    ) -> list[Written | WriteError]:
        outcomes = write_batch(documents, tier, progress)
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
