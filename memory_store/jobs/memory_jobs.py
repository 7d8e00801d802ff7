"""``InMemoryJobQueue``: the queue without a disk, for tests and dry runs. Nothing survives it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import uuid_utils

from memory_store.catalogue.cursors import clamp_limit, decode_cursor, page_of
from memory_store.errors import ConflictError, LeaseLostError, NotFoundError
from memory_store.jobs.queue import (
    LEASE_EXPIRED,
    SUPERSEDED,
    JobIds,
    Jobs,
    backoff_s,
    first_tier,
    priority_of,
)
from memory_store.records import (
    DEFAULT_COLLECTION,
    Job,
    JobStatus,
    Page,
    Tier,
    WriteMode,
)


class InMemoryJobQueue:
    """Implements :class:`memory_store.jobs.queue.JobQueue`."""

    def __init__(self, *, max_attempts: int = 3, clock: Callable[[], float] = time.time) -> None:
        self._max_attempts = max_attempts
        self._clock = clock
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._not_before: dict[str, float] = {}

    def add(
        self,
        document_id: str,
        *,
        collection: str = DEFAULT_COLLECTION,
        mode: WriteMode = WriteMode.AUTO,
        tier: Tier | None = None,
    ) -> Job:
        """Queue the next version of a document; jobs of its older versions are cancelled."""
        with self._lock:
            if tier is None:
                self._supersede(collection, document_id)
            job = Job(
                job_id=f"job_{uuid_utils.uuid7().hex}",
                collection=collection,
                document_id=document_id,
                version=self._last_version(collection, document_id) + (tier is None),
                tier=tier or first_tier(mode),
                mode=mode,
                status=JobStatus.QUEUED,
                progress=0.0,
                attempts=0,
                max_attempts=self._max_attempts,
                error_code=None,
                error_message=None,
                result=None,
                refine_job_id=None,
                created_at=self._clock(),
                started_at=None,
                finished_at=None,
                lease_owner=None,
                lease_expires_at=None,
            )
            return self._put(job)

    def succeed(self, job_id: str, worker_id: str, result: Mapping[str, Any]) -> Job:
        """Finish a job as a commit would: a fast job of mode auto is followed by a refinement.

        Raises:
            NotFoundError; LeaseLostError
        """
        with self._lock:
            job = self._held(job_id, worker_id)
            refine = None
            if job.mode is WriteMode.AUTO and job.tier is Tier.FAST:
                refine = self.add(
                    job.document_id, collection=job.collection, mode=job.mode, tier=Tier.FIT
                ).job_id
            done = self._finish(job, JobStatus.SUCCEEDED, (None, None))
            return self._put(replace(done, progress=1.0, result=result, refine_job_id=refine))

    def get(self, job_id: str) -> Job:
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            raise NotFoundError(f"there is no job {job_id!r}", param="job_id")
        return job

    def list(
        self,
        *,
        status: JobStatus | None = None,
        collection: str | None = None,
        among: Sequence[str] | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Job]:
        limit = clamp_limit(limit)
        before = decode_cursor(cursor, 1)[0] if cursor else None
        with self._lock:
            found = [
                job
                for job in sorted(self._jobs.values(), key=lambda job: job.job_id, reverse=True)
                if (status is None or job.status is status)
                and (collection is None or job.collection == collection)
                and (among is None or job.collection in among)
                and (before is None or job.job_id < before)
            ]
        return page_of(found[: limit + 1], limit, lambda job: (job.job_id,))

    def lease(
        self,
        worker_id: str,
        *,
        limit: int,
        lease_s: float,
        tiers: Sequence[Tier] = (Tier.FAST, Tier.FIT),
    ) -> Jobs:
        with self._lock:
            now = self._clock()
            self._give_back_expired(now)
            queued = sorted(
                (
                    job
                    for job in self._jobs.values()
                    if job.status is JobStatus.QUEUED
                    and job.tier in tiers
                    and self._not_before.get(job.job_id, 0.0) <= now
                ),
                key=lambda job: (priority_of(job.tier, job.mode), job.job_id),
            )
            batch = [
                job
                for job in queued
                if (job.tier, job.collection) == (queued[0].tier, queued[0].collection)
            ]
            return [
                self._put(
                    replace(
                        job,
                        status=JobStatus.RUNNING,
                        attempts=job.attempts + 1,
                        progress=0.0,
                        started_at=now,
                        lease_owner=worker_id,
                        lease_expires_at=now + lease_s,
                    )
                )
                for job in batch[:limit]
            ]

    def heartbeat(self, worker_id: str, progress: Mapping[str, float], *, lease_s: float) -> JobIds:
        with self._lock:
            expires_at = self._clock() + lease_s
            held = [
                self._jobs[job_id]
                for job_id in progress
                if job_id in self._jobs and self._is_held(self._jobs[job_id], worker_id)
            ]
            for job in held:
                fraction = min(1.0, max(job.progress, progress[job.job_id]))
                self._put(replace(job, progress=fraction, lease_expires_at=expires_at))
            return [job.job_id for job in held]

    def fail(self, job_id: str, worker_id: str, *, code: str, message: str, retryable: bool) -> Job:
        with self._lock:
            job = self._held(job_id, worker_id)
            if retryable and job.attempts < job.max_attempts:
                self._not_before[job_id] = self._clock() + backoff_s(job.attempts)
                queued = self._give_back(job)
                return self._put(replace(queued, error_code=code, error_message=message))
            status = JobStatus.DEAD if retryable else JobStatus.FAILED
            return self._put(self._finish(job, status, (code, message)))

    def release(self, worker_id: str) -> int:
        with self._lock:
            held = [job for job in self._jobs.values() if self._is_held(job, worker_id)]
            for job in held:
                queued = self._give_back(job)
                self._put(replace(queued, attempts=job.attempts - 1, started_at=None))
            return len(held)

    def cancel(self, job_id: str) -> Job:
        with self._lock:
            job = self.get(job_id)
            if job.status.is_final:
                raise ConflictError(f"job {job_id} is already {job.status}")
            error = ("cancelled", "cancelled on request")
            return self._put(self._finish(job, JobStatus.CANCELLED, error))

    def retry(self, job_id: str) -> Job:
        with self._lock:
            job = self.get(job_id)
            if not job.status.is_final or job.status is JobStatus.SUCCEEDED:
                raise ConflictError(
                    f"job {job_id} is {job.status}; only failed, dead and cancelled jobs can be "
                    "retried"
                )
            if job.version != self._last_version(job.collection, job.document_id):
                raise ConflictError(f"the document of job {job_id} was replaced; write it again")
            self._not_before.pop(job_id, None)
            return self._put(
                replace(
                    job,
                    status=JobStatus.QUEUED,
                    attempts=0,
                    progress=0.0,
                    error_code=None,
                    error_message=None,
                    started_at=None,
                    finished_at=None,
                )
            )

    def depth(self) -> int:
        with self._lock:
            return sum(not job.status.is_final for job in self._jobs.values())

    def retry_after_s(self) -> float:
        return 1.0  # nothing is measured here: the least a client is asked to wait

    def _put(self, job: Job) -> Job:
        self._jobs[job.job_id] = job
        return job

    def _held(self, job_id: str, worker_id: str) -> Job:
        job = self.get(job_id)
        if not self._is_held(job, worker_id):
            raise LeaseLostError(f"job {job_id} is {job.status} and not leased by {worker_id}")
        return job

    @staticmethod
    def _is_held(job: Job, worker_id: str) -> bool:
        return job.status is JobStatus.RUNNING and job.lease_owner == worker_id

    @staticmethod
    def _give_back(job: Job) -> Job:
        return replace(job, status=JobStatus.QUEUED, lease_owner=None, lease_expires_at=None)

    def _finish(self, job: Job, status: JobStatus, error: tuple[str | None, str | None]) -> Job:
        code, message = error
        return replace(
            job,
            status=status,
            error_code=code,
            error_message=message,
            finished_at=self._clock(),
            lease_owner=None,
            lease_expires_at=None,
        )

    def _give_back_expired(self, now: float) -> None:
        for job in list(self._jobs.values()):
            if job.status is JobStatus.RUNNING and (job.lease_expires_at or 0.0) < now:
                spent = job.attempts >= job.max_attempts
                self._put(
                    self._finish(job, JobStatus.DEAD, LEASE_EXPIRED)
                    if spent
                    else self._give_back(job)
                )

    def _supersede(self, collection: str, document_id: str) -> None:
        for job in list(self._jobs.values()):
            if (job.collection, job.document_id) == (collection, document_id):
                if job.status.is_final:
                    continue
                self._put(self._finish(job, JobStatus.CANCELLED, SUPERSEDED))

    def _last_version(self, collection: str, document_id: str) -> int:
        return max(
            (
                job.version
                for job in self._jobs.values()
                if (job.collection, job.document_id) == (collection, document_id)
            ),
            default=0,
        )
