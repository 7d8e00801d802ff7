"""SIGKILL at every named point of the write protocol; a fresh process finds nothing amiss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memory_store import CRASH_POINTS, Job, JobStatus, MemoryStore, Tier, WriteRequest
from memory_store.crashpoints import VARIABLE
from tests.crash.store_process import DOCUMENTS, save, submit
from tests.unit.memory_store.making import (
    SPEC,
    WORKER,
    Clock,
    key_of,
    open_store,
    work,
    written,
)

STEPS = {
    "a": ["submit"],
    "b": ["work"],
    "c": ["work"],
    "d": ["work", "compact"],
    "e": ["work"],
    "f": ["save"],
    "g": ["compact"],
}
KILLS = [(point, operation) for point in CRASH_POINTS for operation in STEPS.get(point[0], [])]


def run(home: Path, operation: str, crash_at: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.crash.store_process", str(home), operation],
        env={**os.environ, VARIABLE: crash_at},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def prepare(home: Path, operation: str) -> None:
    """What must be there before the operation that is killed."""
    with open_store(home) as store:
        if operation == "submit":
            return
        submit(store)
        if operation in ("compact", "save"):
            work(store)
            store.delete_document("default", "d3")
            store.submit(WriteRequest("text of d3", "d3"))
            work(store, tiers=(Tier.FAST,))


@pytest.mark.parametrize(("point", "operation"), KILLS)
def test_nothing_acknowledged_is_lost_and_nothing_is_stored_twice(
    tmp_path: Path, point: str, operation: str
) -> None:
    prepare(tmp_path, operation)
    killed = run(tmp_path, operation, point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    acknowledged = killed.stdout.split() if operation == "submit" else list(DOCUMENTS)

    clock = Clock()
    clock.now = 4e9  # every lease of the killed process has expired
    with open_store(tmp_path, clock=clock, orphan_grace_s=0.0) as store:
        assert store.check() == []
        listed = {document.document_id for document in store.documents().items}
        assert set(acknowledged) <= listed
        for name in acknowledged:
            assert remembered_or_queued(store, name)
        # a client that saw no answer sends again: still one document, one job
        if operation == "submit":
            submit(store)
        work(store)
        for name in DOCUMENTS:
            document = store.document("default", name)
            assert [(m.passage, m.tier) for m in document.memories] == [(0, Tier.FIT)]
            hits = store.select("default", key_of(f"text of {name}", Tier.FIT), 50)
            assert len(hits) == len(DOCUMENTS)
            assert hits[0].memory.document_id == name
            assert len(store.load_codes([hit.memory for hit in hits])) == len(DOCUMENTS)
        store.compact()
        assert store.check() == []
        assert store.stats().dead_rows == 0


def remembered_or_queued(store: MemoryStore, name: str) -> bool:
    jobs = [job for job in store.jobs.list(limit=100).items if job.document_id == name]
    return bool(store.document("default", name).memories) or any(
        job.status in (JobStatus.QUEUED, JobStatus.RUNNING) for job in jobs
    )


@pytest.mark.parametrize("point", ["d-torn", "d-synced", "d-renamed"])
def test_what_a_killed_process_leaves_is_swept_only_when_old(tmp_path: Path, point: str) -> None:
    prepare(tmp_path, "work")
    run(tmp_path, "work", point)
    with open_store(tmp_path):
        assert len(list((tmp_path / "shards" / "1").iterdir())) == 1
    with open_store(tmp_path, orphan_grace_s=0.0):
        assert list((tmp_path / "shards" / "1").iterdir()) == []


def test_a_worker_killed_at_every_attempt_ends_as_a_dead_letter(tmp_path: Path) -> None:
    prepare(tmp_path, "work")
    clock = Clock()
    clock.now = 4e9
    with open_store(tmp_path, clock=clock) as store:
        for _ in range(3):
            assert len(store.jobs.lease("victim", limit=16, lease_s=60.0)) == len(DOCUMENTS)
            clock.advance(61.0)
        assert store.jobs.lease("victim", limit=16, lease_s=60.0) == []
        assert len(store.jobs.list(status=JobStatus.DEAD).items) == len(DOCUMENTS)
        for job in store.jobs.list(status=JobStatus.DEAD).items:
            store.jobs.retry(job.job_id)
        assert len(work(store)) == 2 * len(DOCUMENTS)


def test_a_crash_of_another_worker_does_not_disturb_the_one_that_has_the_job(
    tmp_path: Path,
) -> None:
    prepare(tmp_path, "work")
    with open_store(tmp_path) as store:
        mine: list[Job] = store.jobs.lease(WORKER, limit=2, lease_s=600.0)
        assert run(tmp_path, "work", "e-after-commit").returncode == -signal.SIGKILL
        done = store.commit([written(store, job) for job in mine], SPEC, WORKER)
        assert [job.status for job in done] == [JobStatus.SUCCEEDED] * 2
        save(store)
        assert store.check() == []
