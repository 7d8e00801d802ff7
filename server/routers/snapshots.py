"""``/snapshots``: points in time to go back to."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from memory_store.snapshots.jobs import SnapshotJob, SnapshotWork
from server.paging import Cursor, Limit
from server.schemas.results import ListResult
from server.schemas.snapshots import SnapshotJobResult, SnapshotResult
from server.services import ServicesDep
from server.snapshots import SnapshotRunner

router = APIRouter(prefix="/snapshots", tags=["snapshots"])


async def get_runner(request: Request) -> SnapshotRunner:
    runner = request.app.state.snapshots
    assert isinstance(runner, SnapshotRunner)
    return runner


Runner = Annotated[SnapshotRunner, Depends(get_runner)]


@router.post("", status_code=202, summary="Take a snapshot")
async def take_snapshot(
    services: ServicesDep, runner: Runner, response: Response
) -> SnapshotJobResult:
    """Of everything, at one point in time, while reading and writing go on. What the snapshots'
    place already has is not kept twice."""
    services.refuse_if_draining()
    return _accepted(await runner.submit(SnapshotWork.SNAPSHOT), response)


@router.get("", summary="List snapshots")
async def list_snapshots(
    services: ServicesDep, runner: Runner, cursor: Cursor = None, limit: Limit = 100
) -> ListResult[SnapshotResult]:
    """Newest first."""
    page = await services.read(lambda: runner.snapshots().page(cursor=cursor, limit=limit))
    items = [SnapshotResult.of(snapshot) for snapshot in page.items]
    return ListResult(items=items, next_cursor=page.next_cursor)


@router.get("/{snapshot_id}", summary="One snapshot")
async def get_snapshot(snapshot_id: str, services: ServicesDep, runner: Runner) -> SnapshotResult:
    return SnapshotResult.of(await services.read(lambda: runner.snapshots().get(snapshot_id)))


@router.delete("/{snapshot_id}", status_code=204, summary="Delete a snapshot")
async def delete_snapshot(snapshot_id: str, services: ServicesDep, runner: Runner) -> Response:
    """With the files that no other snapshot needs."""
    await services.write(lambda: runner.snapshots().delete(snapshot_id))
    return Response(status_code=204)


@router.post("/{snapshot_id}/restore", status_code=202, summary="Restore a snapshot")
async def restore_snapshot(
    snapshot_id: str, services: ServicesDep, runner: Runner, response: Response
) -> SnapshotJobResult:
    """The job brings every byte back beside the present state, verifies and audits it. It replaces
    the present state, with everything written meanwhile, when server and workers are next stopped
    and started: running processes have the present one open. A snapshot of which the loaded engine
    could read nothing is a conflict."""
    services.refuse_if_draining()
    return _accepted(await runner.submit(SnapshotWork.RESTORE, snapshot_id), response)


def _accepted(job: SnapshotJob, response: Response) -> SnapshotJobResult:
    response.headers["Location"] = f"/jobs/{job.job_id}"
    return SnapshotJobResult.of(job)
