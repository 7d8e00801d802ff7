"""One suite for both job queues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from memory_store import (
    ConflictError,
    InMemoryJobQueue,
    InvalidCursorError,
    Job,
    JobQueue,
    JobStatus,
    LeaseLostError,
    MemoryStore,
    NotFoundError,
    Tier,
    WriteMode,
    WriteRequest,
)
from memory_store.jobs.queue import backoff_s
from tests.unit.memory_store.making import SPEC, Clock, written

A, B = "worker-a", "worker-b"


class Bench(Protocol):
    """A queue with the two things the protocol leaves to its owner."""

    jobs: JobQueue

    def add(self, document_id: str, mode: WriteMode = ..., collection: str = ...) -> Job: ...

    def succeed(self, job: Job, worker_id: str) -> Job: ...


class MemoryBench:
    def __init__(self, clock: Clock) -> None:
        self.queue = InMemoryJobQueue(clock=clock)
        self.jobs: JobQueue = self.queue

    def add(
        self, document_id: str, mode: WriteMode = WriteMode.FAST, collection: str = "default"
    ) -> Job:
        return self.queue.add(document_id, mode=mode, collection=collection)

    def succeed(self, job: Job, worker_id: str) -> Job:
        return self.queue.succeed(job.job_id, worker_id, {"loss": 0.25})


class SqliteBench:
    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.jobs = store.jobs

    def add(
        self, document_id: str, mode: WriteMode = WriteMode.FAST, collection: str = "default"
    ) -> Job:
        self.store.put_collection(collection, SPEC)
        request = WriteRequest("some text", document_id, mode=mode, collection=collection)
        return self.store.submit(request).job

    def succeed(self, job: Job, worker_id: str) -> Job:
        return self.store.commit([written(self.store, job)], SPEC, worker_id)[0]


@pytest.fixture(params=["memory", "sqlite"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Bench]:
    if request.param == "memory":
        yield MemoryBench(clock)
    else:
        with MemoryStore.open(tmp_path / "home", clock=clock) as store:
            yield SqliteBench(store)


def lease(bench: Bench, worker_id: str = A, limit: int = 10) -> list[Job]:
    return bench.jobs.lease(worker_id, limit=limit, lease_s=30.0)


def test_a_leased_job_is_running_and_its_attempt_counted(bench: Bench, clock: Clock) -> None:
    job = bench.add("d1")
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    (leased,) = lease(bench)
    assert leased == bench.jobs.get(job.job_id)
    assert (leased.status, leased.attempts, leased.lease_owner) == (JobStatus.RUNNING, 1, A)
    assert (leased.started_at, leased.lease_expires_at) == (clock.now, clock.now + 30.0)


def test_a_leased_job_is_nobody_elses(bench: Bench) -> None:
    bench.add("d1")
    assert lease(bench, A)
    assert lease(bench, B) == []


def test_jobs_are_leased_oldest_first_up_to_the_limit(bench: Bench) -> None:
    added = [bench.add(f"d{number}").job_id for number in range(5)]
    assert [job.job_id for job in lease(bench, limit=3)] == added[:3]
    assert [job.job_id for job in lease(bench, limit=3)] == added[3:]


def test_a_batch_is_of_one_tier_and_one_collection(bench: Bench) -> None:
    bench.add("d1", WriteMode.FAST, "one")
    bench.add("d2", WriteMode.FIT, "one")
    bench.add("d3", WriteMode.FAST, "two")
    bench.add("d4", WriteMode.FAST, "one")
    batches = []
    while batch := lease(bench):
        batches.append([job.document_id for job in batch])
    assert batches == [["d1", "d4"], ["d3"], ["d2"]]


def test_refinements_wait_behind_every_other_job(bench: Bench) -> None:
    bench.add("d1", WriteMode.AUTO)
    (first,) = lease(bench)
    bench.succeed(first, A)
    bench.add("d2", WriteMode.FIT)
    bench.add("d3", WriteMode.FAST)
    order = [(job.document_id, job.tier) for _ in range(3) for job in lease(bench, limit=1)]
    assert order == [("d3", Tier.FAST), ("d2", Tier.FIT), ("d1", Tier.FIT)]


def test_only_the_wanted_tiers_are_leased(bench: Bench) -> None:
    bench.add("d1", WriteMode.FAST)
    bench.add("d2", WriteMode.FIT)
    leased = bench.jobs.lease(A, limit=5, lease_s=30.0, tiers=(Tier.FIT,))
    assert [job.document_id for job in leased] == ["d2"]


def test_success_is_recorded_with_its_result(bench: Bench, clock: Clock) -> None:
    bench.add("d1")
    (job,) = lease(bench)
    clock.advance(2.0)
    done = bench.succeed(job, A)
    assert (done.status, done.progress, done.result) == (JobStatus.SUCCEEDED, 1.0, {"loss": 0.25})
    assert (done.finished_at, done.lease_owner) == (clock.now, None)
    assert bench.jobs.depth() == 0


def test_a_fast_job_of_mode_auto_is_followed_by_a_refinement(bench: Bench) -> None:
    bench.add("d1", WriteMode.AUTO)
    (job,) = lease(bench)
    done = bench.succeed(job, A)
    assert done.refine_job_id is not None
    refine = bench.jobs.get(done.refine_job_id)
    assert (refine.tier, refine.status, refine.version) == (Tier.FIT, JobStatus.QUEUED, job.version)


def test_an_expired_lease_returns_to_the_queue(bench: Bench, clock: Clock) -> None:
    bench.add("d1")
    lease(bench, A)
    clock.advance(31.0)
    (again,) = lease(bench, B)
    assert (again.lease_owner, again.attempts) == (B, 2)


def test_a_lease_that_has_not_expired_stays(bench: Bench, clock: Clock) -> None:
    bench.add("d1")
    lease(bench, A)
    clock.advance(29.0)
    assert lease(bench, B) == []


def test_a_job_whose_lease_expires_at_the_last_attempt_is_dead(bench: Bench, clock: Clock) -> None:
    job = bench.add("d1")
    for _ in range(3):
        assert lease(bench)
        clock.advance(31.0)
    assert lease(bench) == []
    dead = bench.jobs.get(job.job_id)
    assert (dead.status, dead.error_code, dead.attempts) == (JobStatus.DEAD, "lease_expired", 3)


def test_a_heartbeat_keeps_the_lease_and_the_progress(bench: Bench, clock: Clock) -> None:
    job = bench.add("d1")
    lease(bench, A)
    clock.advance(25.0)
    assert bench.jobs.heartbeat(A, {job.job_id: 0.5}, lease_s=30.0) == [job.job_id]
    clock.advance(25.0)
    assert lease(bench, B) == []
    assert bench.jobs.get(job.job_id).progress == 0.5


def test_progress_never_goes_back_nor_past_one(bench: Bench) -> None:
    job = bench.add("d1")
    lease(bench, A)
    for said, kept in ((0.5, 0.5), (0.2, 0.5), (7.0, 1.0)):
        bench.jobs.heartbeat(A, {job.job_id: said}, lease_s=30.0)
        assert bench.jobs.get(job.job_id).progress == kept


def test_a_heartbeat_tells_which_jobs_are_lost(bench: Bench, clock: Clock) -> None:
    jobs = [bench.add(f"d{number}") for number in range(3)]
    lease(bench, A)
    bench.jobs.cancel(jobs[0].job_id)
    said = {job.job_id: 0.1 for job in jobs} | {"job_unknown": 0.1}
    assert bench.jobs.heartbeat(A, said, lease_s=1.0) == [jobs[1].job_id, jobs[2].job_id]
    clock.advance(2.0)
    lease(bench, B)
    assert bench.jobs.heartbeat(A, said, lease_s=30.0) == []
    assert bench.jobs.heartbeat(A, {}, lease_s=30.0) == []


def test_a_retryable_failure_waits_before_the_next_attempt(bench: Bench, clock: Clock) -> None:
    job = bench.add("d1")
    lease(bench)
    failed = bench.jobs.fail(job.job_id, A, code="oom", message="no memory", retryable=True)
    assert (failed.status, failed.error_code, failed.lease_owner) == (
        JobStatus.QUEUED,
        "oom",
        None,
    )
    assert lease(bench) == []
    clock.advance(backoff_s(1))
    assert [again.attempts for again in lease(bench)] == [2]


def test_a_retryable_failure_at_the_last_attempt_is_dead(bench: Bench, clock: Clock) -> None:
    job = bench.add("d1")
    for _ in range(3):
        assert lease(bench)
        failed = bench.jobs.fail(job.job_id, A, code="oom", message="no memory", retryable=True)
        clock.advance(100.0)
    assert (failed.status, failed.error_message) == (JobStatus.DEAD, "no memory")
    assert lease(bench) == []


def test_a_permanent_failure_fails_at_once(bench: Bench, clock: Clock) -> None:
    job = bench.add("d1")
    lease(bench)
    failed = bench.jobs.fail(job.job_id, A, code="empty", message="no words", retryable=False)
    assert (failed.status, failed.attempts) == (JobStatus.FAILED, 1)
    assert failed.finished_at == clock.now


def test_a_worker_cannot_fail_a_job_it_lost(bench: Bench) -> None:
    job = bench.add("d1")
    lease(bench, A)
    with pytest.raises(LeaseLostError):
        bench.jobs.fail(job.job_id, B, code="oom", message="", retryable=True)
    assert bench.jobs.get(job.job_id).status is JobStatus.RUNNING


def test_a_graceful_stop_does_not_cost_an_attempt(bench: Bench) -> None:
    bench.add("d1")
    bench.add("d2")
    lease(bench, A)
    assert bench.jobs.release(B) == 0
    assert bench.jobs.release(A) == 2
    assert [(job.attempts, job.lease_owner) for job in lease(bench, B)] == [(1, B), (1, B)]


def test_queued_and_running_jobs_can_be_cancelled(bench: Bench) -> None:
    first, second = bench.add("d1"), bench.add("d2")
    lease(bench, limit=1)
    for job in (first, second):
        cancelled = bench.jobs.cancel(job.job_id)
        assert (cancelled.status, cancelled.lease_owner) == (JobStatus.CANCELLED, None)
    assert bench.jobs.depth() == 0


def test_a_final_job_cannot_be_cancelled(bench: Bench) -> None:
    job = bench.add("d1")
    bench.jobs.cancel(job.job_id)
    with pytest.raises(ConflictError, match="already cancelled"):
        bench.jobs.cancel(job.job_id)


def test_a_failed_job_can_be_retried_with_all_its_attempts(bench: Bench) -> None:
    job = bench.add("d1")
    lease(bench)
    bench.jobs.fail(job.job_id, A, code="oom", message="no memory", retryable=False)
    again = bench.jobs.retry(job.job_id)
    assert (again.status, again.attempts, again.error_code) == (JobStatus.QUEUED, 0, None)
    assert [leased.job_id for leased in lease(bench)] == [job.job_id]


def test_only_failed_dead_and_cancelled_jobs_can_be_retried(bench: Bench) -> None:
    job = bench.add("d1")
    with pytest.raises(ConflictError, match="queued"):
        bench.jobs.retry(job.job_id)
    (leased,) = lease(bench)
    with pytest.raises(ConflictError, match="running"):
        bench.jobs.retry(job.job_id)
    bench.succeed(leased, A)
    with pytest.raises(ConflictError, match="succeeded"):
        bench.jobs.retry(job.job_id)


def test_the_job_of_a_replaced_document_cannot_be_retried(bench: Bench) -> None:
    job = bench.add("d1")
    bench.add("d1")
    assert bench.jobs.get(job.job_id).error_code == "superseded"
    with pytest.raises(ConflictError, match="replaced"):
        bench.jobs.retry(job.job_id)


def test_an_unknown_job_is_not_found(bench: Bench) -> None:
    for call in (bench.jobs.get, bench.jobs.cancel, bench.jobs.retry):
        with pytest.raises(NotFoundError, match="job_x"):
            call("job_x")
    with pytest.raises(NotFoundError):
        bench.jobs.fail("job_x", A, code="", message="", retryable=True)


def test_jobs_are_listed_newest_first_in_pages(bench: Bench) -> None:
    added = [bench.add(f"d{number}").job_id for number in range(5)]
    listed, cursor = [], None
    for _ in range(3):
        page = bench.jobs.list(limit=2, cursor=cursor)
        listed += [job.job_id for job in page.items]
        cursor = page.next_cursor
    assert listed == added[::-1]
    assert cursor is None


def test_jobs_are_listed_by_status_and_collection(bench: Bench) -> None:
    bench.add("d1", collection="one")
    second = bench.add("d2", collection="two")
    bench.add("d3", collection="two")
    bench.jobs.cancel(second.job_id)
    assert len(bench.jobs.list(collection="two").items) == 2
    assert [job.document_id for job in bench.jobs.list(status=JobStatus.CANCELLED).items] == ["d2"]
    assert bench.jobs.list(status=JobStatus.DEAD, collection="one").items == []


@pytest.mark.parametrize("cursor", ["!", "e30", "WzFd", "WyJhIiwiYiJd", "\xff"])
def test_a_cursor_of_somebody_else_is_refused(bench: Bench, cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        bench.jobs.list(cursor=cursor)


def test_depth_counts_queued_and_running(bench: Bench) -> None:
    for number in range(3):
        bench.add(f"d{number}")
    lease(bench, limit=1)
    assert bench.jobs.depth() == 3
    assert bench.jobs.retry_after_s() >= 1.0
