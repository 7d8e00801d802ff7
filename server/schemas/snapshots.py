"""Results of ``/snapshots``. Timestamps are Unix seconds, for display only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel

from memory_store.records import JobStatus
from memory_store.snapshots.jobs import SnapshotJob, SnapshotWork
from memory_store.snapshots.manifest import Snapshot
from server.schemas.results import JobError


class SnapshotResult(BaseModel):
    """A point in time that can be restored. ``fingerprints``: the bundles its memories need."""

    snapshot_id: str
    created_at: float
    paramem: str
    bytes: int
    files: int
    documents: int
    memories: int
    fingerprints: list[str]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        return cls(
            snapshot_id=snapshot.snapshot_id,
            created_at=snapshot.created_at,
            paramem=snapshot.paramem,
            bytes=snapshot.num_bytes,
            files=len(snapshot.files),
            documents=snapshot.documents,
            memories=snapshot.memories,
            fingerprints=snapshot.fingerprints,
        )


class SnapshotJobResult(BaseModel):
    """The work of taking or restoring a snapshot. ``snapshot_id``: null until it is taken."""

    job_id: str
    work: SnapshotWork
    snapshot_id: str | None
    status: JobStatus
    progress: float
    attempts: int
    error: JobError | None
    result: Mapping[str, Any] | None
    created_at: float
    started_at: float | None
    finished_at: float | None

    @classmethod
    def of(cls, job: SnapshotJob) -> Self:
        error = JobError.of(job.error_code, job.error_message)
        fields = {name: getattr(job, name) for name in cls.model_fields if name != "error"}
        return cls(error=error, **fields)
