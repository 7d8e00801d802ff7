"""The worker process: it starts, works beside others, and stops when told to."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from memory_store.records import JobStatus
from memory_store.store import MemoryStore
from tests.crash.conftest import Start
from tests.crash.worker_process import (
    HANG,
    SLOW,
    TICK,
    submit,
    wait_until,
)

EXIT_S = 60  # limit, not a measurement


def states(store: MemoryStore) -> list[str]:
    return [worker.state for worker in store.workers(max_age_s=60)]


def test_two_workers_share_the_queue_and_store_everything_once(
    store: MemoryStore, start: Start
) -> None:
    jobs = [submit(store, f"text number {number}", f"d{number}") for number in range(60)]
    for _ in range(2):
        start(batch_documents=4)
    wait_until(lambda: store.jobs.depth() == 0)
    done = [store.jobs.get(job.job_id) for job in jobs]
    assert {job.status for job in done} == {JobStatus.SUCCEEDED}
    assert {job.attempts for job in done} == {1}
    assert store.stats().memories == 60


def test_the_heart_beats_while_the_model_loads(store: MemoryStore, start: Start) -> None:
    worker = start(model="slow-to-load")
    wait_until(lambda: states(store) == ["loading"])
    (first,) = store.workers(max_age_s=60)
    wait_until(lambda: store.workers(max_age_s=60)[0].heartbeat_at > first.heartbeat_at)
    assert states(store) == ["loading"]
    # No batch to wait for: a long grace does not hold a loading worker up.
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(EXIT_S / 2) == 0
    assert states(store) == []


def test_a_long_step_does_not_let_the_lease_expire(store: MemoryStore, start: Start) -> None:
    job = submit(store, f"some {HANG}")
    start()
    wait_until(lambda: states(store) == ["working"])
    lease_ends = store.jobs.get(job.job_id).lease_expires_at
    assert lease_ends is not None
    wait_until(lambda: (store.jobs.get(job.job_id).lease_expires_at or 0) > lease_ends + 1)
    running = store.jobs.get(job.job_id)
    assert (running.status, running.attempts) == (JobStatus.RUNNING, 1)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_stops_at_once_and_is_forgotten(
    store: MemoryStore, start: Start, signum: signal.Signals
) -> None:
    worker = start()
    wait_until(lambda: states(store) == ["idle"])
    assert [info.fingerprint for info in store.workers(max_age_s=60)] == ["dummy-1"]
    worker.send_signal(signum)
    assert worker.wait(EXIT_S) == 0
    assert states(store) == []


def test_a_batch_that_ends_within_the_grace_is_finished(store: MemoryStore, start: Start) -> None:
    job = submit(store, f"some {SLOW}")
    worker = start(shutdown_grace_s=50)
    wait_until(lambda: states(store) == ["working"])
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(EXIT_S) == 0
    assert store.jobs.get(job.job_id).status is JobStatus.SUCCEEDED
    assert states(store) == []


@pytest.mark.parametrize("marker", [TICK, HANG])
def test_a_batch_that_takes_longer_goes_back_to_the_queue_uncounted(
    store: MemoryStore, start: Start, marker: str
) -> None:
    job = submit(store, f"some {marker}")
    worker = start(shutdown_grace_s=0.2)
    wait_until(lambda: states(store) == ["working"])
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(EXIT_S) == 0
    queued = store.jobs.get(job.job_id)
    assert (queued.status, queued.attempts) == (JobStatus.QUEUED, 0)
    assert states(store) == []


def test_a_second_interrupt_does_not_wait_for_the_grace(store: MemoryStore, start: Start) -> None:
    job = submit(store, f"some {TICK}")
    worker = start(shutdown_grace_s=1000)
    wait_until(lambda: states(store) == ["working"])
    worker.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.5)  # the first one is patient, and lets the second be told apart from it
    worker.send_signal(signal.SIGINT)
    assert worker.wait(EXIT_S) == 0
    assert store.jobs.get(job.job_id).status is JobStatus.QUEUED


def test_a_model_that_cannot_be_loaded_ends_the_worker_with_its_reason(
    home: Path, store: MemoryStore, start: Start
) -> None:
    assert start(model="broken").wait(EXIT_S) == 1
    assert "this model cannot be loaded" in (home.parent / "worker.log").read_text()
    assert states(store) == []
