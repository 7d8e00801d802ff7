"""The ``JobQueue`` seam: what a worker and the HTTP surface need of the queue.

A job is leased, not taken: a worker that stops extending its lease loses the job, and the attempt
counts. States: queued -> running -> succeeded | failed | cancelled | dead; queued -> cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from memory_store.records import Job, JobStatus, Page, Tier, WriteMode

BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 60.0
EWMA_WEIGHT = 0.2
WORKER_MAX_AGE_S = 30.0

SUPERSEDED = ("superseded", "the document was replaced or deleted before this job was done")
LEASE_EXPIRED = (
    "lease_expired",
    "the worker stopped answering on the last attempt; see its log, then retry the job",
)
# a class with a method named list cannot spell these inside
Jobs = list[Job]
JobIds = list[str]


class JobQueue(Protocol):
    """Thread-safe."""

    def get(self, job_id: str) -> Job:
        """Raises: NotFoundError."""
        ...

    def list(
        self,
        *,
        status: JobStatus | None = None,
        collection: str | None = None,
        among: Sequence[str] | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Job]:
        """Newest first; ``among``: only of these collections.

        Raises:
            InvalidCursorError
        """
        ...

    def lease(
        self,
        worker_id: str,
        *,
        limit: int,
        lease_s: float,
        tiers: Sequence[Tier] = (Tier.FAST, Tier.FIT),
    ) -> Jobs:
        """Take up to ``limit`` jobs of one tier and one collection; attempts are counted.

        Fast jobs first, then fits of documents without memories, then refinements; oldest first.
        Expired leases are first given back, or become dead at ``max_attempts``.
        """
        ...

    def heartbeat(self, worker_id: str, progress: Mapping[str, float], *, lease_s: float) -> JobIds:
        """Extend the leases of the jobs in ``progress`` (job id -> 0 … 1).

        Returns: those still held; cancelled and lost ones are missing.
        """
        ...

    def fail(self, job_id: str, worker_id: str, *, code: str, message: str, retryable: bool) -> Job:
        """Queue it again after a pause, or dead at ``max_attempts``; not retryable: failed.

        Raises:
            NotFoundError; LeaseLostError: the job is no longer this worker's.
        """
        ...

    def release(self, worker_id: str) -> int:
        """Give all running jobs of a worker that stops back; the attempt is not counted."""
        ...

    def cancel(self, job_id: str) -> Job:
        """A running job's worker notices at its next heartbeat.

        Raises:
            NotFoundError; ConflictError: it is already in a final state.
        """
        ...

    def retry(self, job_id: str) -> Job:
        """Queue a failed, dead or cancelled job again with all its attempts.

        Raises:
            NotFoundError; ConflictError: another state, or its document version is gone.
        """
        ...

    def depth(self) -> int:
        """Queued and running jobs."""
        ...

    def retry_after_s(self) -> float:
        """When a full queue should have room again: depth x seconds per job / workers, >= 1."""
        ...


def priority_of(tier: Tier, mode: WriteMode) -> int:
    """0 fast, 1 fit of a document that has no memory yet, 2 refinement."""
    if tier is Tier.FAST:
        return 0
    return 2 if mode is WriteMode.AUTO else 1


def first_tier(mode: WriteMode) -> Tier:
    """What the first job of a write makes."""
    return Tier.FIT if mode is WriteMode.FIT else Tier.FAST


def backoff_s(attempts: int) -> float:
    """Pause before the next attempt, in seconds."""
    return float(min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2 ** max(0, attempts - 1)))
