"""The heartbeat: leases renewed, progress published, lost jobs noticed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

import pytest

from memory_store.records import Job, JobStatus, WorkerInfo
from memory_store.store import MemoryStore
from tests.unit.trainer_worker.conftest import Clock
from trainer_worker.heartbeat import Heartbeat


def only_worker(store: MemoryStore) -> WorkerInfo:
    (worker,) = store.workers(max_age_s=1e12)
    return worker


def lease(store: MemoryStore, heartbeat: Heartbeat) -> list[str]:
    jobs = store.jobs.lease(heartbeat.worker_id, limit=8, lease_s=60)
    job_ids = [job.job_id for job in jobs]
    heartbeat.hold(job_ids)
    return job_ids


def test_a_heartbeat_slower_than_the_lease_is_refused(store: MemoryStore) -> None:
    with pytest.raises(ValueError, match="PARAMEM_HEARTBEAT_S"):
        Heartbeat(store, "worker-1", every_s=60, lease_s=60)


def test_a_new_state_is_published_at_once(store: MemoryStore, heartbeat: Heartbeat) -> None:
    heartbeat.beat()
    assert only_worker(store).state == "loading"
    heartbeat.become("idle", fingerprint="dummy-1")
    worker = only_worker(store)
    assert (worker.state, worker.fingerprint) == ("idle", "dummy-1")


def test_a_beat_renews_leases_and_publishes_progress(
    store: MemoryStore, heartbeat: Heartbeat, clock: Clock, write: Callable[..., Job]
) -> None:
    write("some text")
    (job_id,) = lease(store, heartbeat)
    clock.now += 40
    heartbeat.report({job_id: 0.5, "not mine": 0.9})
    heartbeat.beat()
    job = store.jobs.get(job_id)
    assert job.progress == 0.5
    assert job.lease_expires_at == clock.now + 60
    clock.now += 40
    assert store.jobs.lease("worker-2", limit=8, lease_s=60) == []


def test_a_dropped_job_is_not_renewed(
    store: MemoryStore, heartbeat: Heartbeat, clock: Clock, write: Callable[..., Job]
) -> None:
    write("some text")
    job_ids = lease(store, heartbeat)
    heartbeat.drop(job_ids)
    clock.now += 61
    heartbeat.beat()
    assert [job.job_id for job in store.jobs.lease("worker-2", limit=8, lease_s=60)] == job_ids


def test_a_job_cancelled_or_taken_over_is_lost(
    store: MemoryStore, heartbeat: Heartbeat, clock: Clock, write: Callable[..., Job]
) -> None:
    for _ in range(2):
        write("some text")
    kept, cancelled = lease(store, heartbeat)
    heartbeat.beat()
    assert not heartbeat.lost(kept)
    store.jobs.cancel(cancelled)
    heartbeat.beat()
    assert (heartbeat.lost(kept), heartbeat.lost(cancelled)) == (False, True)
    clock.now += 61
    store.jobs.lease("worker-2", limit=8, lease_s=60)
    heartbeat.beat()
    assert heartbeat.lost(kept)
    heartbeat.hold([kept])
    assert not heartbeat.lost(kept)  # a new lease is a new story


def test_a_store_that_fails_does_not_stop_the_heart(
    store: MemoryStore, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(_info: WorkerInfo) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(store, "beat", locked)
        heartbeat.become("idle")
    heartbeat.beat()
    assert only_worker(store).state == "idle"


def test_the_thread_beats_until_the_end_and_then_signs_off(
    store: MemoryStore, clock: Clock, write: Callable[..., Job]
) -> None:
    write("some text")
    with Heartbeat(store, "worker-1", every_s=0.005, lease_s=60) as heartbeat:
        (job_id,) = lease(store, heartbeat)
        heartbeat.report({job_id: 0.25})
        while store.jobs.get(job_id).progress < 0.25:
            time.sleep(0.005)
    job = store.jobs.get(job_id)
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 0)
    assert store.workers(max_age_s=1e12) == []
