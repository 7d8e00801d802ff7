"""SIGKILL at every named point of the write protocol; a fresh process finds nothing amiss."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import memory_store
from memory_store import CRASH_POINTS, Job, JobStatus, Tier
from memory_store.crashpoints import VARIABLE
from tests.crash.store_process import DOCUMENTS, prepare, save
from tests.crash.verdict import assert_nothing_lost
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
    "j": ["repair"],
}
DELETED = {"i-before-commit": False, "i-after-commit": True}
"""Whether the document is gone for good when its deletion was killed there."""
KILLS = [
    (point, operation)
    for point in CRASH_POINTS
    if point not in DELETED
    for operation in STEPS.get(point[0], [])
]
NAMED = re.compile(r'reach\(f?"(?:\{step\}|[a-z])-([a-z-]+)"\)')


def run(home: Path, operation: str, crash_at: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.crash.store_process", str(home), operation],
        env={**os.environ, VARIABLE: crash_at},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("point", "operation"), KILLS)
def test_nothing_acknowledged_is_lost_and_nothing_is_stored_twice(
    tmp_path: Path, point: str, operation: str
) -> None:
    prepare(tmp_path, operation)
    killed = run(tmp_path, operation, point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    acknowledged = killed.stdout.split() if operation == "submit" else list(DOCUMENTS)
    if operation == "repair":
        with open_store(tmp_path) as store:
            assert all(problem.repaired for problem in store.check(repair=True))
    assert_nothing_lost(tmp_path, acknowledged, send_again=operation == "submit")


@pytest.mark.parametrize(("point", "deleted"), DELETED.items())
def test_a_killed_delete_has_happened_wholly_or_not_at_all(
    tmp_path: Path, point: str, deleted: bool
) -> None:
    prepare(tmp_path, "delete")
    killed = run(tmp_path, "delete", point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with open_store(tmp_path, orphan_grace_s=0.0) as store:
        assert store.check() == []
        assert [d.document_id for d in store.documents().items] == list(DOCUMENTS)[deleted:]
        hits = store.select("default", key_of("text of d0", Tier.FIT), 50)
        assert ("d0" in {hit.memory.document_id for hit in hits}) is not deleted


def test_every_point_in_the_code_is_listed_and_every_listed_one_is_in_the_code() -> None:
    root = Path(memory_store.__file__).parent
    named = {name for file in root.rglob("*.py") for name in NAMED.findall(file.read_text())}
    assert named <= {point.partition("-")[2] for point in CRASH_POINTS}
    for point in CRASH_POINTS:  # a step may have a name of its own: h-ready-torn
        assert any(point.endswith(f"-{name}") for name in named), point


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
