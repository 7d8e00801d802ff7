"""The worker's loop: what becomes of each job, whatever happens around it."""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

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
from memory_store.right_of_way import RightOfWay
from memory_store.store import MemoryStore
from paramem.settings import Settings
from tests.unit.trainer_worker.conftest import SPEC, Clock
from tests.unit.trainer_worker.saboteur import (
    MakeWorker,
    Saboteur,
    Write,
    fail_with,
    on_poison,
    status,
)
from trainer_worker.drain import Drain
from trainer_worker.dummy_writer import UNWRITABLE, DummyWriter
from trainer_worker.writer import WriteError


def test_documents_become_memories_batch_by_batch(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    jobs = [write(f"text number {number}", f"d{number}") for number in range(20)]
    worker = make_worker(dummy)
    assert [worker.run_once(), worker.run_once(), worker.run_once()] == [True, True, False]
    assert {status(store, job) for job in jobs} == {JobStatus.SUCCEEDED}
    (memory,) = store.document("default", "d7").memories
    assert memory.tier is Tier.FAST
    assert store.passage_texts([memory]) == ["text number 7"]
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


def test_a_collections_slots_and_code_format_may_differ_from_the_workers(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker
) -> None:
    store.put_collection("small", replace(SPEC, slots=2, code_format=CodeFormat.INT8))
    job = store.submit(WriteRequest(text="text", collection="small", mode=WriteMode.FAST)).job
    assert make_worker(dummy).run_once()
    assert status(store, job) is JobStatus.SUCCEEDED


def on_refinement(texts: list[str]) -> bool:
    return "a long refinement" in texts


def test_new_documents_are_readable_before_the_running_fit_goes_on(
    store: MemoryStore,
    dummy: DummyWriter,
    make_worker: MakeWorker,
    write: Write,
    settings: Settings,
) -> None:
    write("a long refinement", mode=WriteMode.FIT)
    arrived: list[Job] = []
    more_than_a_batch = settings.batch_documents + 1

    def come() -> None:
        arrived.extend(write(f"in a hurry {number}") for number in range(more_than_a_batch))

    worker = make_worker(Saboteur(dummy, come, on_refinement))
    with structlog.testing.capture_logs() as logs:
        assert worker.run_once()
    ended = [(line["tier"], line["documents"]) for line in logs if line["event"] == "batch"]
    assert ended == [("fast", settings.batch_documents), ("fast", 1), ("fit", 1)]
    assert {status(store, job) for job in arrived} == {JobStatus.SUCCEEDED}


def test_a_fit_that_is_to_end_soon_takes_nothing_new(
    store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write, drain: Drain
) -> None:
    slow = write("a long refinement", mode=WriteMode.FIT)
    arrived: list[Job] = []

    def stop() -> None:
        arrived.append(write("in a hurry"))
        drain.request()

    assert make_worker(Saboteur(dummy, stop, on_refinement)).run_once()
    assert status(store, slow) is JobStatus.SUCCEEDED
    assert status(store, arrived[0]) is JobStatus.QUEUED


def test_between_two_steps_it_waits_while_a_query_is_being_answered(
    tmp_path: Path, store: MemoryStore, dummy: DummyWriter, make_worker: MakeWorker, write: Write
) -> None:
    step_s = 0.02
    job = write("a document that can wait")
    worker = make_worker(Saboteur(dummy, lambda: time.sleep(step_s)))
    server = RightOfWay(tmp_path / "home" / ".queries")
    server.take()
    with structlog.testing.capture_logs() as logs:
        assert worker.run_once()
    assert status(store, job) is JobStatus.SUCCEEDED
    (line,) = [line for line in logs if line["event"] == "batch"]
    assert line["waited_s"] > step_s  # four times the step, but not for ever: the query is still on


def test_an_idle_worker_audits_the_store_and_tells_what_it_finds(
    tmp_path: Path,
    store: MemoryStore,
    dummy: DummyWriter,
    make_worker: MakeWorker,
    write: Write,
    drain: Drain,
) -> None:
    write("a text", "d1")
    worker = make_worker(dummy)
    assert worker.run_once()
    (shard,) = (tmp_path / "home" / "shards").glob("*/*")
    shard.write_bytes(shard.read_bytes()[:-1])
    with structlog.testing.capture_logs() as logs:
        running = threading.Thread(target=worker.run)
        running.start()
        deadline = time.monotonic() + 10
        while store.stats().audit_problems == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        drain.request()
        running.join()
    told = [line for line in logs if line["event"] == "audit_problem"]
    assert len(told) == store.stats().audit_problems > 0
    assert [line["problems"] for line in logs if line["event"] == "audited"] == [len(told)]
