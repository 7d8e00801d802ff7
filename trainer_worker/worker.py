"""The worker's loop: lease a batch of jobs, write their memories, commit them.

What can go wrong, and what becomes of the job:

=====================================  =========================================================
the writer refuses a document          failed, with the writer's code
the writer raises                      every document again on its own; the one that raises alone
                                       is tried again later, dead after ``max_attempts``
the process is killed                  each document again on its own, when the lease has expired
out of memory                          the batch again in halves
disk full, catalogue locked            back to the queue, attempt not counted, after a pause
bundle and collection disagree         failed: trying again cannot help
document deleted or replaced           cancelled
job cancelled, lease lost              dropped: whoever has it now decides
the accelerator is lost                as if the process were killed, which it then is
worker asked to stop, grace over       back to the queue, attempt not counted
=====================================  =========================================================
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog

from memory_store.errors import (
    CorruptionError,
    DiskFailedError,
    DiskFullError,
    FingerprintMismatchError,
    NotFoundError,
    StoreError,
)
from memory_store.records import Job, JobStatus, MemorySpec, Tier, WrittenDocument
from memory_store.store import MemoryStore
from paramem.settings import Settings
from trainer_worker.courtesy import Courtesy
from trainer_worker.drain import Drain
from trainer_worker.heartbeat import Heartbeat
from trainer_worker.writer import MemoryWriter, Progress, SourceDocument, WriteError

log = structlog.get_logger(__name__)

AUDIT_LOOK_S = 60.0
"""How often an idle worker looks whether an audit is due."""
STORE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class Abandoned(BaseException):
    """Raised through the writer by the progress callback: nobody wants this batch any more.

    A BaseException, so that a writer's handler for one bad document does not take it for one.
    """


@dataclass(frozen=True, slots=True)
class _Task:
    job: Job
    source: SourceDocument


@dataclass(slots=True)
class _Tally:
    """What the batch's log line reports."""

    documents: int = 0
    passages: int = 0
    failed: int = 0
    waited_s: float = 0.0  # for queries


class Worker:
    """Runs in one thread; ``heartbeat`` beats beside it, ``drain`` ends it."""

    def __init__(
        self,
        store: MemoryStore,
        writer: MemoryWriter,
        heartbeat: Heartbeat,
        drain: Drain,
        settings: Settings,
    ) -> None:
        self._store = store
        self._writer = writer
        quantiser = writer.quantiser
        if quantiser is not None:
            store.register_quantiser(writer.spec.fingerprint, quantiser)
        self._heartbeat = heartbeat
        self._drain = drain
        self._settings = settings
        self._next_audit = 0.0  # time.monotonic()
        self._courtesy = Courtesy(
            store.right_of_way.is_taken, drain.wait, share=settings.write_share
        )

    def run(self) -> None:
        """Work until drained. A store that cannot be written for now is waited for."""
        while not self._drain.requested:
            try:
                busy = self.run_once()
                if not busy:
                    self._audit_if_due()
                pause_s = 0.0 if busy else self._settings.poll_s
            except Abandoned:
                pause_s = 0.0
            except Exception as error:
                if not isinstance(error, (StoreError, sqlite3.Error, OSError)):
                    raise
                log.warning("store_unavailable", error=type(error).__name__, exc_info=True)
                pause_s = self._settings.heartbeat_s
            if pause_s:
                self._heartbeat.become("idle")
                self._drain.wait(pause_s)
        self._heartbeat.become("stopping")

    def run_once(self, tiers: Sequence[Tier] = (Tier.FAST, Tier.FIT)) -> bool:
        """Lease one batch and bring every job of it to an end. Returns: whether there was one.

        A fit takes minutes: between two of its steps this is called again until none of the fast
        jobs that have come in is left, so that a new document is readable at once.

        Raises: Abandoned when the drain's grace is over; what the store raised when it cannot be
            written for now, after giving the leases back.
        """
        jobs = self._store.jobs.lease(
            self._heartbeat.worker_id,
            limit=self._settings.batch_documents,
            lease_s=self._settings.lease_s,
            tiers=tiers,
        )
        if not jobs:
            return False
        started = time.monotonic()
        tally = _Tally()
        job_ids = [job.job_id for job in jobs]
        self._heartbeat.hold(job_ids)
        self._heartbeat.become("working")
        self._courtesy.begin()
        try:
            self._work(jobs, tally)
        except Exception:
            # Not a document's fault, so the attempt is not counted.
            self._store.jobs.release(self._heartbeat.worker_id)
            raise
        finally:
            self._heartbeat.drop(job_ids)
            log.info(
                "batch",
                tier=str(jobs[0].tier),
                collection=jobs[0].collection,
                documents=tally.documents,
                passages=tally.passages,
                failed=tally.failed,
                seconds=round(time.monotonic() - started, 3),
                waited_s=round(tally.waited_s, 3),
            )
        return True

    def _audit_if_due(self) -> None:
        every_s, now = self._settings.audit_every_s, time.monotonic()
        if not every_s or now < self._next_audit:
            return
        self._next_audit = now + AUDIT_LOOK_S
        problems = self._store.check_if_due(every_s)
        if problems is None:
            return
        self._next_audit = now + every_s  # also where a full disk keeps no outcome
        for problem in problems:
            log.error("audit_problem", code=problem.code, repair=problem.repair)
        log.info("audited", problems=len(problems))

    def _work(self, jobs: Sequence[Job], tally: _Tally) -> None:
        """``jobs`` are of one collection and one tier."""
        try:
            spec = self._store.collection(jobs[0].collection).spec
        except NotFoundError:
            self._cancel(jobs)
            return
        mine = self._writer.spec
        # m and the format are the collection's own choice.
        if replace(mine, slots=spec.slots, code_format=spec.code_format) != spec:
            for job in jobs:
                self._fail(job, FingerprintMismatchError.code, _mismatch(spec, mine), tally)
            return
        tasks = [task for job in jobs if (task := self._load(job, tally)) is not None]
        for part in _parts(tasks):
            self._write(part, spec, tally)

    def _load(self, job: Job, tally: _Tally) -> _Task | None:
        try:
            source = self._store.document_source(job)
        except NotFoundError:
            self._cancel([job])
            return None
        except CorruptionError as error:
            self._fail(job, error.code, error.message, tally)
            return None
        return _Task(job, SourceDocument(source.document_id, source.text, source.title))

    def _write(self, tasks: Sequence[_Task], spec: MemorySpec, tally: _Tally) -> None:
        """Write and commit; a batch that raises is taken apart until the culprit stands alone."""
        try:
            self._write_together(tasks, spec, tally)
            return
        except Abandoned:
            if self._drain.overdue_s >= 0:
                raise
            return  # these jobs are lost, but those of the batch's other parts may not be
        except Exception as error:
            if _is_fault_of_store(error):
                raise
            if isinstance(error, WriteError) and len(tasks) == 1:
                self._fail(tasks[0].job, error.code, error.message, tally)
                return
            out_of_memory = _is_out_of_memory(error)
            # The message of a foreign exception may quote the document, so it is left out.
            log.warning(
                "write_failed",
                error=type(error).__name__,
                jobs=[task.job.job_id for task in tasks],
                frames="".join(traceback.format_tb(error.__traceback__)),
            )
            if len(tasks) == 1:
                code = "out_of_memory" if out_of_memory else "writer_error"
                message = f"{type(error).__name__} while writing; the worker's log has the frames"
                self._fail(tasks[0].job, code, message, tally, retryable=True)
                return
        # Outside the handler: the exception held on to the batch's tensors.
        size = (len(tasks) + 1) // 2 if out_of_memory else 1
        for start in range(0, len(tasks), size):
            self._write(tasks[start : start + size], spec, tally)

    def _write_together(self, tasks: Sequence[_Task], spec: MemorySpec, tally: _Tally) -> None:
        progress = self._progress_of([task.job for task in tasks], tally)
        progress([0.0] * len(tasks), "start")
        tier = tasks[0].job.tier
        outcomes = self._writer.write([task.source for task in tasks], tier, spec, progress)
        refused: list[tuple[Job, WriteError]] = []
        written: list[WrittenDocument] = []
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, WriteError):
                refused.append((task.job, outcome))
            elif not self._heartbeat.lost(task.job.job_id):
                written.append(WrittenDocument(task.job, outcome.passages, outcome.result))
        ended = self._store.commit(written, spec, self._heartbeat.worker_id) if written else []
        # Only after the commit, which may raise and have the whole batch written again.
        for job, error in refused:
            self._fail(job, error.code, error.message, tally)
        self._heartbeat.drop([task.job.job_id for task in tasks])
        for document, job in zip(written, ended, strict=True):
            if job.status is JobStatus.SUCCEEDED:
                tally.documents += 1
                tally.passages += len(document.passages)
            tally.failed += job.status is JobStatus.FAILED

    def _progress_of(self, jobs: Sequence[Job], tally: _Tally) -> Progress:
        def progress(fractions: Sequence[float], _stage: str) -> None:
            self._heartbeat.report(
                {job.job_id: fraction for job, fraction in zip(jobs, fractions, strict=True)}
            )
            tally.waited_s += self._courtesy.pause()
            if self._drain.overdue_s >= 0:
                raise Abandoned("asked to stop")
            if all(self._heartbeat.lost(job.job_id) for job in jobs):
                raise Abandoned("every job of the batch was cancelled or lost")
            if jobs[0].tier is Tier.FIT:
                while not self._drain.requested and self.run_once(tiers=(Tier.FAST,)):
                    pass

        return progress

    def _fail(
        self, job: Job, code: str, message: str, tally: _Tally, *, retryable: bool = False
    ) -> None:
        tally.failed += 1
        self._end(
            job,
            partial(
                self._store.jobs.fail,
                job.job_id,
                self._heartbeat.worker_id,
                code=code,
                message=message,
                retryable=retryable,
            ),
        )

    def _cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._end(job, partial(self._store.jobs.cancel, job.job_id))

    def _end(self, job: Job, end: Callable[[], Job]) -> None:
        # A StoreError here means that the job is no longer ours to end.
        with contextlib.suppress(StoreError):
            end()
        self._heartbeat.drop([job.job_id])


def _parts(tasks: Sequence[_Task]) -> list[list[_Task]]:
    """What is written together: new jobs; each job that was tried before on its own.

    A document that kills the process takes its batch's attempts with it. Alone, and every other
    time from the other end, those before it and those after it get through before it is dead.
    """
    fresh = [task for task in tasks if task.job.attempts <= 1]
    suspects = [[task] for task in tasks if task.job.attempts > 1]
    if any(part[0].job.attempts % 2 for part in suspects):
        suspects.reverse()
    return [fresh, *suspects] if fresh else suspects


def _mismatch(collection: MemorySpec, writer: MemorySpec) -> str:
    wanted, given = (
        f"fingerprint {spec.fingerprint}, z_dim {spec.z_dim}" for spec in (collection, writer)
    )
    return (
        f"the collection holds memories of {wanted}; this worker writes {given}. Run the worker "
        "with the collection's bundle, or write to a new collection"
    )


def _is_out_of_memory(error: Exception) -> bool:
    # By name: a worker with the dummy writer runs without torch.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _is_fault_of_store(error: Exception) -> bool:
    """Full, failing or locked: not this batch's fault, and likely to pass."""
    return isinstance(error, (DiskFullError, DiskFailedError, sqlite3.OperationalError)) or (
        isinstance(error, OSError) and error.errno in STORE_ERRNOS
    )
