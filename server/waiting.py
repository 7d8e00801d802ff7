"""Following a job from outside the worker: the catalogue is asked again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from memory_store.errors import NotFoundError
from memory_store.records import Job
from server.keys import ApiKey
from server.services import Services

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.25


async def find_job(services: Services, key: ApiKey, job_id: str) -> Job:
    """Raises: NotFoundError, also for a job of a collection that ``key`` does not open: ids of
    jobs are nobody else's to know."""
    job = await services.read(services.store.jobs.get, job_id)
    if not key.sees(job.collection):
        raise NotFoundError(f"there is no job {job_id!r}", param="job_id")
    return job


async def job_changes(services: Services, job_id: str) -> AsyncIterator[Job]:
    """The job now, at each change anyone can see, and when it is final, which ends it.

    Raises: NotFoundError; ApiError 503 when the server drains.
    """
    last: Job | None = None
    pause_s = FIRST_PAUSE_S
    while True:
        job = await services.read(services.store.jobs.get, job_id)
        if last is None or _visible(job) != _visible(last):
            yield job
            pause_s = FIRST_PAUSE_S
        if job.status.is_final:
            return
        services.refuse_if_draining()
        last = job
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def wait_until_final(services: Services, job_id: str, *, timeout_s: float) -> Job:
    """The job as soon as it is final, or as it is when the time is over or the server drains."""
    deadline = time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    while True:
        job = await services.read(services.store.jobs.get, job_id)
        left_s = deadline - time.monotonic()
        if job.status.is_final or services.draining or left_s <= 0:
            return job
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _visible(job: Job) -> tuple[object, ...]:
    return job.status, job.progress, job.attempts, job.error_code, job.refine_job_id
