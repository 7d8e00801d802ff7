"""The server's snapshot and restore jobs: one small file each, beside the catalogue.

Beside and not in it, because a restore replaces the catalogue, and its own job must outlive that.
There are few, and no worker leases them: the server that took one on runs it, again after a crash.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import uuid_utils

from memory_store.errors import ConflictError, NotFoundError
from memory_store.files import make_directory, write_durably
from memory_store.records import JobStatus

DIRECTORY = "snapshot-jobs"
JOB_ID = re.compile(r"job_[0-9a-f]{32}")
KEPT = 100
MAX_ATTEMPTS = 3


class SnapshotWork(StrEnum):
    SNAPSHOT = "snapshot"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class SnapshotJob:
    job_id: str
    work: SnapshotWork
    snapshot_id: str | None  # of a snapshot: once it is taken
    status: JobStatus
    progress: float  # 0 … 1
    attempts: int
    error_code: str | None
    error_message: str | None
    result: dict[str, Any] | None
    created_at: float
    started_at: float | None
    finished_at: float | None


class SnapshotJobs:
    """Of one home; one process uses it."""

    def __init__(self, home: Path) -> None:
        self._directory = home / DIRECTORY

    def add(self, work: SnapshotWork, snapshot_id: str | None) -> SnapshotJob:
        """Durable when this returns. Raises: ConflictError while another is unfinished."""
        for other in self.unfinished():
            raise ConflictError(
                f"{other.work} job {other.job_id} is {other.status}; wait until it is done"
            )
        job = SnapshotJob(
            job_id=f"job_{uuid_utils.uuid7().hex}",
            work=work,
            snapshot_id=snapshot_id,
            status=JobStatus.QUEUED,
            progress=0.0,
            attempts=0,
            error_code=None,
            error_message=None,
            result=None,
            created_at=time.time(),
            started_at=None,
            finished_at=None,
        )
        self.save(job)
        for old in self._ids()[:-KEPT]:
            self._path(old).unlink(missing_ok=True)
        return job

    def save(self, job: SnapshotJob) -> None:
        make_directory(self._directory)
        write_durably(self._path(job.job_id), json.dumps(asdict(job)).encode(), step="h-job")

    def get(self, job_id: str) -> SnapshotJob:
        """Raises: NotFoundError."""
        try:
            if JOB_ID.fullmatch(job_id) is None:
                raise FileNotFoundError
            fields = json.loads(self._path(job_id).read_bytes())
        except FileNotFoundError:
            raise NotFoundError(f"there is no job {job_id!r}", param="job_id") from None
        return replace(
            SnapshotJob(**fields),
            work=SnapshotWork(fields["work"]),
            status=JobStatus(fields["status"]),
        )

    def unfinished(self) -> list[SnapshotJob]:
        """Oldest first."""
        jobs = [self.get(job_id) for job_id in self._ids()]
        return [job for job in jobs if not job.status.is_final]

    def _ids(self) -> list[str]:
        return sorted(path.stem for path in self._directory.glob("job_*.json"))

    def _path(self, job_id: str) -> Path:
        return self._directory / f"{job_id}.json"
