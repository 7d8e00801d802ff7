"""``/jobs``: following, cancelling and repeating the work behind a write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from memory_store.errors import NotFoundError
from memory_store.records import Job, JobStatus
from server.auth import Caller
from server.paging import Cursor, Limit
from server.routers.snapshots import Runner
from server.schemas.results import JobResult, ListResult
from server.schemas.snapshots import SnapshotJobResult
from server.services import ServicesDep
from server.sse import event, with_error_event
from server.waiting import find_job, job_changes

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("", summary="List jobs")
async def list_jobs(
    services: ServicesDep,
    key: Caller,
    status: Annotated[JobStatus | None, Query()] = None,
    collection: Annotated[str | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> ListResult[JobResult]:
    page = await services.read(
        services.store.jobs.list,
        status=status,
        collection=collection,
        among=key.among(collection),
        cursor=cursor,
        limit=limit,
    )
    return ListResult(items=[JobResult.of(job) for job in page.items], next_cursor=page.next_cursor)


async def _known_job(job_id: str, services: ServicesDep, key: Caller) -> Job:
    return await find_job(services, key, job_id)


KnownJob = Annotated[Job, Depends(_known_job)]


@router.get("/{job_id}", summary="One job")
async def get_job(
    job_id: str, services: ServicesDep, runner: Runner, key: Caller
) -> JobResult | SnapshotJobResult:
    """Of a document, or of a snapshot; the list has those of documents."""
    try:
        return JobResult.of(await find_job(services, key, job_id))
    except NotFoundError:
        if key.collections is not None:
            raise  # a snapshot is of all collections: not for a key to some of them
        return SnapshotJobResult.of(await services.read(runner.get, job_id))


@router.delete("/{job_id}", summary="Cancel a job")
async def cancel_job(job: KnownJob, services: ServicesDep) -> JobResult:
    """A job that is final already is a conflict. What the document remembers stays as it was."""
    return JobResult.of(await services.write(services.store.jobs.cancel, job.job_id))


@router.post("/{job_id}/retry", status_code=202, summary="Queue a job again")
async def retry_job(job: KnownJob, services: ServicesDep) -> JobResult:
    """For failed, dead and cancelled jobs; the attempts start from zero."""
    services.refuse_if_draining()
    return JobResult.of(await services.write(services.store.jobs.retry, job.job_id))


@router.get("/{job_id}/events", summary="Follow a job", response_class=EventSourceResponse)
async def job_events(job: KnownJob, services: ServicesDep) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events ``job``: the job now and at each change; the final one ends the stream."""
    async for sent in with_error_event(_job_events(job, services)):
        yield sent


async def _job_events(job: Job, services: ServicesDep) -> AsyncIterator[ServerSentEvent]:
    async for seen in job_changes(services, job.job_id):
        yield event("job", JobResult.of(seen))
