"""Runs snapshot and restore jobs in this process, one at a time, in a thread of their own.

A job that the server's end interrupts is run again at the next start: a snapshot keeps what it has
kept, a restore has replaced nothing.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from memory_store.errors import FingerprintMismatchError, StoreError
from memory_store.records import JobStatus
from memory_store.snapshots.jobs import MAX_ATTEMPTS, SnapshotJob, SnapshotJobs, SnapshotWork
from memory_store.snapshots.snapshots import Snapshots
from server.services import Services

log = structlog.get_logger(__name__)

WAITING = (
    "verified; it replaces the present state, with everything written meanwhile, at the next start "
    "with no other process in the home: stop the server and all workers, then start them again. "
    "Today's state is then kept in before-restore-… under the home"
)


class Interrupted(BaseException):
    """The server drains: the job goes on at the next start."""


class SnapshotRunner:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._jobs = SnapshotJobs(services.settings.home)
        self._running: dict[str, SnapshotJob] = {}  # with a progress that is not on disk
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Lock()

    def snapshots(self) -> Snapshots:
        """Where the settings keep them. Raises: StoreError."""
        return Snapshots(self._services.settings.home, self._services.settings.snapshots)

    async def resume(self) -> None:
        """Take up what a server that ended left unfinished."""
        for job in await self._services.read(self._jobs.unfinished):
            self._start(job)

    async def submit(self, work: SnapshotWork, snapshot_id: str | None = None) -> SnapshotJob:
        """Raises: ConflictError; NotFoundError; FingerprintMismatchError: memories that the loaded
        engine could not read."""
        async with self._wanted:  # two must not both find nothing unfinished
            if snapshot_id is not None:
                await self._services.read(self._check, snapshot_id)
            job = await self._services.write(self._jobs.add, work, snapshot_id)
        self._start(job)
        return job

    def get(self, job_id: str) -> SnapshotJob:
        """Raises: NotFoundError."""
        return self._running.get(job_id) or self._jobs.get(job_id)

    async def stop(self) -> None:
        """Wait for the threads; the drain interrupts them between two files."""
        for task in list(self._tasks):
            with suppress(asyncio.CancelledError):
                await task

    def _start(self, job: SnapshotJob) -> None:
        task = asyncio.create_task(self._services.operate(self._run, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check(self, snapshot_id: str) -> None:
        needed = self.snapshots().get(snapshot_id).fingerprints
        loaded = self._services.engine_info().spec.fingerprint
        if needed and loaded not in needed:
            raise FingerprintMismatchError(
                f"snapshot {snapshot_id} holds memories of {', '.join(needed)}, the loaded model "
                f"reads {loaded}: start the server with the model and bundle that wrote them, or "
                "restore with the server stopped: paramem restore",
                param="snapshot_id",
            )

    def _run(self, job: SnapshotJob) -> None:
        """In a thread. Whatever happens ends in the job's file."""
        job = replace(
            job, status=JobStatus.RUNNING, attempts=job.attempts + 1, started_at=time.time()
        )
        self._running[job.job_id] = job
        self._jobs.save(job)
        error: tuple[str, str] | None = None
        result: dict[str, Any] | None = None
        try:
            if job.attempts > MAX_ATTEMPTS:
                error = ("interrupted", f"its server ended {MAX_ATTEMPTS} times while it ran")
            else:
                result = self._work(job)
        except Interrupted:
            self._jobs.save(replace(job, status=JobStatus.QUEUED, attempts=job.attempts - 1))
            del self._running[job.job_id]
            return
        except StoreError as refusal:
            error = (refusal.code, refusal.message)
        except Exception as failure:  # a place that cannot be reached raises what it likes
            log.error("snapshot_job_failed", job_id=job.job_id, exc_info=failure)
            error = ("snapshot_failed", f"{type(failure).__name__}; the server's log has more")
        self._end(job, result, error)

    def _work(self, job: SnapshotJob) -> dict[str, Any]:
        def progress(fraction: float) -> None:
            if self._services.draining:
                raise Interrupted
            self._running[job.job_id] = replace(job, progress=fraction)

        snapshots = self.snapshots()
        if job.work is SnapshotWork.SNAPSHOT:
            taken = self._services.store.snapshot(snapshots, progress)
            return {
                "snapshot_id": taken.snapshot.snapshot_id,
                "bytes": taken.snapshot.num_bytes,
                "new_bytes": taken.new_bytes,
            }
        assert job.snapshot_id is not None, "a restore names its snapshot"
        report = snapshots.restore(job.snapshot_id, progress)
        return {
            "snapshot_id": job.snapshot_id,
            "bytes": report.num_bytes,
            "fingerprints": report.fingerprints,
            "applied": report.applied,
            "next": WAITING,
        }

    def _end(
        self, job: SnapshotJob, result: dict[str, Any] | None, error: tuple[str, str] | None
    ) -> None:
        code, message = error or (None, None)
        done = replace(
            job,
            status=JobStatus.FAILED if error else JobStatus.SUCCEEDED,
            progress=job.progress if error else 1.0,
            snapshot_id=result["snapshot_id"] if result else job.snapshot_id,
            error_code=code,
            error_message=message,
            result=result,
            finished_at=time.time(),
        )
        self._jobs.save(done)
        del self._running[job.job_id]
        log.info("snapshot_job", job_id=job.job_id, work=str(job.work), status=str(done.status))
