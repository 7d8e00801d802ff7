"""``SqliteJobQueue``: the queue as a table of the catalogue.

It lives there so that a document, its job and its memories commit in one transaction; that is
also why it is not a library (see ARCHITECTURE.md). Invariant: a queued or running job is about
the current version of its document, because what retires a version cancels its jobs with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import uuid_utils

from memory_store.catalogue import measures, row_sums
from memory_store.catalogue.cursors import clamp_limit, decode_cursor, page_of
from memory_store.catalogue.database import Catalogue, Connection, json_list, named
from memory_store.crashpoints import reach
from memory_store.errors import ConflictError, LeaseLostError, NotFoundError
from memory_store.jobs.queue import (
    EWMA_WEIGHT,
    LEASE_EXPIRED,
    SUPERSEDED,
    WORKER_MAX_AGE_S,
    JobIds,
    Jobs,
    backoff_s,
    priority_of,
)
from memory_store.records import Job, JobStatus, Page, Tier, WriteMode

SELECT = (
    "SELECT j.job_id, c.name, j.document_id, j.version, j.tier, j.mode, j.status, j.progress,"
    " j.attempts, j.max_attempts, j.error_code, j.error_message, j.result, j.refine_job_id,"
    " j.created_at, j.started_at, j.finished_at, j.lease_owner, j.lease_expires_at"
    " FROM jobs j JOIN collections c USING (collection_id)"
    f" WHERE {row_sums.sound('jobs', 'j')} AND {row_sums.sound('collections', 'c')}"
)
SECONDS_PER_JOB = "seconds_per_job"


class SqliteJobQueue:
    """Implements :class:`memory_store.jobs.queue.JobQueue`."""

    def __init__(
        self, catalogue: Catalogue, *, max_attempts: int, clock: Callable[[], float]
    ) -> None:
        self._catalogue = catalogue
        self._max_attempts = max_attempts
        self._clock = clock

    def get(self, job_id: str) -> Job:
        with self._catalogue.read() as connection:
            return find(connection, job_id)

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
        conditions, parameters = list[str](), list[str]()
        for condition, value in (
            ("j.status IS ?", status),
            ("c.name IS ?", collection),
            ("c.name IN (SELECT value FROM json_each(?))", json_list(among)),
            ("j.job_id < ?", decode_cursor(cursor, 1)[0] if cursor else None),
        ):
            if value is not None:
                conditions.append(f"AND {condition}")
                parameters.append(str(value))
        with self._catalogue.read() as connection:
            rows = connection.execute(
                f"{SELECT} {' '.join(conditions)} ORDER BY j.job_id DESC LIMIT ?",
                (*parameters, limit + 1),
            ).fetchall()
        return page_of([_from_row(row) for row in rows], limit, lambda job: (job.job_id,))

    def lease(
        self,
        worker_id: str,
        *,
        limit: int,
        lease_s: float,
        tiers: Sequence[Tier] = (Tier.FAST, Tier.FIT),
    ) -> Jobs:
        if not self._has_work():
            return []
        now = self._clock()
        with self._catalogue.write() as connection:
            _give_back_expired(connection, now)
            leasable = (
                "FROM jobs WHERE status = 'queued' AND not_before <= ?"
                " AND tier IN (SELECT value FROM json_each(?))"
            )
            order = "ORDER BY priority, job_id LIMIT ?"
            wanted = (now, json.dumps([str(tier) for tier in tiers]))
            first = connection.execute(
                f"SELECT tier, collection_id {leasable} {order}", (*wanted, 1)
            ).fetchone()
            if first is None:
                return []
            rows = connection.execute(
                f"SELECT job_id {leasable} AND tier = ? AND collection_id = ? {order}",
                (*wanted, *first, limit),
            )
            job_ids = [row[0] for row in rows]
            connection.executemany(
                "UPDATE jobs SET status = 'running', attempts = attempts + 1, progress = 0,"
                " started_at = ?, lease_owner = ?, lease_expires_at = ? WHERE job_id = ?",
                [(now, worker_id, now + lease_s, job_id) for job_id in job_ids],
            )
            leased = [find(connection, job_id) for job_id in job_ids]
        reach("b-after-lease")
        return leased

    def heartbeat(self, worker_id: str, progress: Mapping[str, float], *, lease_s: float) -> JobIds:
        if not progress:
            return []
        expires_at = self._clock() + lease_s
        with self._catalogue.write() as connection:
            return [
                job_id
                for job_id, fraction in progress.items()
                if connection.execute(
                    "UPDATE jobs SET lease_expires_at = ?, progress = max(progress, ?)"
                    " WHERE job_id = ? AND status = 'running' AND lease_owner = ?",
                    (expires_at, min(1.0, max(0.0, fraction)), job_id, worker_id),
                ).rowcount
            ]

    def fail(self, job_id: str, worker_id: str, *, code: str, message: str, retryable: bool) -> Job:
        now = self._clock()
        with self._catalogue.write() as connection:
            job = find(connection, job_id)
            if not is_held(job, worker_id):
                raise LeaseLostError(f"job {job_id} is {job.status} and not leased by {worker_id}")
            if retryable and job.attempts < job.max_attempts:
                connection.execute(
                    "UPDATE jobs SET status = 'queued', error_code = ?, error_message = ?,"
                    " not_before = ?, lease_owner = NULL, lease_expires_at = NULL"
                    " WHERE job_id = ?",
                    (code, message, now + backoff_s(job.attempts), job_id),
                )
            else:
                status = JobStatus.DEAD if retryable else JobStatus.FAILED
                finish(connection, [job_id], status, now, error=(code, message))
            return find(connection, job_id)

    def release(self, worker_id: str) -> int:
        with self._catalogue.write() as connection:
            return connection.execute(
                "UPDATE jobs SET status = 'queued', attempts = attempts - 1, started_at = NULL,"
                " lease_owner = NULL, lease_expires_at = NULL"
                " WHERE status = 'running' AND lease_owner = ?",
                (worker_id,),
            ).rowcount

    def cancel(self, job_id: str) -> Job:
        with self._catalogue.write() as connection:
            job = find(connection, job_id)
            if job.status.is_final:
                raise ConflictError(f"job {job_id} is already {job.status}")
            finish(
                connection,
                [job_id],
                JobStatus.CANCELLED,
                self._clock(),
                error=("cancelled", "cancelled on request"),
            )
            return find(connection, job_id)

    def retry(self, job_id: str) -> Job:
        with self._catalogue.write() as connection:
            job = find(connection, job_id)
            if not job.status.is_final or job.status is JobStatus.SUCCEEDED:
                raise ConflictError(
                    f"job {job_id} is {job.status}; only failed, dead and cancelled jobs can be "
                    "retried"
                )
            has_text = connection.execute(
                "SELECT 1 FROM jobs j JOIN documents d USING (collection_id, document_id, version)"
                " JOIN texts t USING (document_key) WHERE j.job_id = ? AND d.is_current = 1",
                (job_id,),
            ).fetchone()
            if has_text is None:
                raise ConflictError(
                    f"the text of job {job_id} is gone: its document was replaced, deleted, or "
                    "written with keep_text=false; write it again"
                )
            connection.execute(
                "UPDATE jobs SET status = 'queued', attempts = 0, progress = 0, not_before = 0,"
                " error_code = NULL, error_message = NULL, started_at = NULL, finished_at = NULL"
                " WHERE job_id = ?",
                (job_id,),
            )
            return find(connection, job_id)

    def depth(self) -> int:
        with self._catalogue.read() as connection:
            return depth(connection)

    def retry_after_s(self) -> float:
        with self._catalogue.read() as connection:
            return retry_after_s(connection, self._clock())

    def insert(
        self,
        connection: Connection,
        collection_id: int,
        document_id: str,
        version: int,
        tier: Tier,
        mode: WriteMode,
    ) -> str:
        """Queue a job in the caller's transaction. Returns its id."""
        job_id = f"job_{uuid_utils.uuid7().hex}"
        connection.execute(
            "INSERT INTO jobs (job_id, collection_id, document_id, version, tier, mode, priority,"
            " status, max_attempts, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?)",
            (
                job_id,
                collection_id,
                document_id,
                version,
                str(tier),
                str(mode),
                priority_of(tier, mode),
                self._max_attempts,
                self._clock(),
            ),
        )
        return job_id

    def _has_work(self) -> bool:
        """A worker polls: an empty queue must not cost a write transaction."""
        with self._catalogue.read() as connection:
            return bool(depth(connection))


def find(connection: Connection, job_id: str) -> Job:
    """Raises: NotFoundError."""
    row = connection.execute(f"{SELECT} AND j.job_id IS ?", (job_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no job {job_id!r}", param="job_id")
    return _from_row(row)


def is_held(job: Job, worker_id: str) -> bool:
    """Whether a worker may still finish this job. An expired lease nobody took counts as held."""
    return job.status is JobStatus.RUNNING and job.lease_owner == worker_id


def finish(
    connection: Connection,
    job_ids: Sequence[str],
    status: JobStatus,
    now: float,
    *,
    error: tuple[str, str] | None = None,
) -> None:
    """Put jobs into a final state that is not success."""
    code, message = error or (None, None)
    connection.executemany(
        "UPDATE jobs SET status = ?, error_code = ?, error_message = ?, finished_at = ?,"
        " lease_owner = NULL, lease_expires_at = NULL WHERE job_id = ?",
        [(str(status), code, message, now, job_id) for job_id in job_ids],
    )
    if job_ids:
        measures.add(connection, {measures.ended(status): len(job_ids)})


def succeed(
    connection: Connection,
    job_id: str,
    result: Mapping[str, Any],
    refine_job_id: str | None,
    now: float,
) -> None:
    connection.execute(
        "UPDATE jobs SET status = 'succeeded', progress = 1, result = ?, refine_job_id = ?,"
        " error_code = NULL, error_message = NULL, finished_at = ?, lease_owner = NULL,"
        " lease_expires_at = NULL WHERE job_id = ?",
        (json.dumps(dict(result)), refine_job_id, now, job_id),
    )
    measures.add(connection, {measures.ended(JobStatus.SUCCEEDED): 1})


def cancel_of_documents(
    connection: Connection, collection_id: int, document_ids: Sequence[str], now: float
) -> None:
    """Their versions are being retired: cancel every job that is not final."""
    rows = connection.execute(
        "SELECT job_id FROM jobs WHERE status IN ('queued', 'running') AND collection_id = ?"
        " AND document_id IN (SELECT value FROM json_each(?))",
        (collection_id, json.dumps(document_ids)),
    )
    finish(
        connection, [row[0] for row in rows.fetchall()], JobStatus.CANCELLED, now, error=SUPERSEDED
    )


def depth(connection: Connection) -> int:
    (count,) = connection.execute(
        "SELECT (SELECT count(*) FROM jobs WHERE status = 'queued')"
        " + (SELECT count(*) FROM jobs WHERE status = 'running')"
    ).fetchone()
    return int(count)


def retry_after_s(connection: Connection, now: float) -> float:
    (workers,) = connection.execute(
        "SELECT count(*) FROM workers WHERE heartbeat_at >= ?", (now - WORKER_MAX_AGE_S,)
    ).fetchone()
    seconds = depth(connection) * (_seconds_per_job(connection) or 0.0)
    return max(1.0, seconds / max(1, int(workers)))


def measure(connection: Connection, seconds_per_job: float) -> None:
    """Feed the running average that ``Retry-After`` is made of."""
    before = _seconds_per_job(connection)
    if before is not None:
        seconds_per_job = before + EWMA_WEIGHT * (seconds_per_job - before)
    connection.execute(
        "INSERT INTO measures (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (SECONDS_PER_JOB, seconds_per_job),
    )


def _seconds_per_job(connection: Connection) -> float | None:
    row = connection.execute(
        "SELECT value FROM measures WHERE name = ?", (SECONDS_PER_JOB,)
    ).fetchone()
    return float(row[0]) if row else None


def _give_back_expired(connection: Connection, now: float) -> None:
    rows = connection.execute(
        "SELECT job_id FROM jobs WHERE status = 'running' AND lease_expires_at < ?"
        " AND attempts >= max_attempts",
        (now,),
    )
    finish(
        connection, [row[0] for row in rows.fetchall()], JobStatus.DEAD, now, error=LEASE_EXPIRED
    )
    connection.execute(
        "UPDATE jobs SET status = 'queued', lease_owner = NULL, lease_expires_at = NULL"
        " WHERE status = 'running' AND lease_expires_at < ?",
        (now,),
    )


def _from_row(row: tuple[Any, ...]) -> Job:
    (job_id, collection, document_id, version, tier, mode, status, progress, attempts, *rest) = row
    max_attempts, error_code, error_message, result, refine_job_id, *times = rest
    created_at, started_at, finished_at, lease_owner, lease_expires_at = times
    return Job(
        job_id=job_id,
        collection=collection,
        document_id=document_id,
        version=version,
        tier=named(Tier, tier),
        mode=named(WriteMode, mode),
        status=named(JobStatus, status),
        progress=progress,
        attempts=attempts,
        max_attempts=max_attempts,
        error_code=error_code,
        error_message=error_message,
        result=json.loads(result) if result is not None else None,
        refine_job_id=refine_job_id,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        lease_owner=lease_owner,
        lease_expires_at=lease_expires_at,
    )
