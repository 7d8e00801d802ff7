"""Workers that die at work: every document is still stored, exactly once."""

from __future__ import annotations

import signal

import pytest

from memory_store.records import Job, JobStatus
from memory_store.store import MemoryStore
from tests.crash.conftest import Start
from tests.crash.worker_process import (
    HANG,
    KILL,
    LOSE_DEVICE,
    RAISE,
    submit,
    wait_until,
)
from trainer_worker.dummy_writer import UNWRITABLE


def ended(store: MemoryStore, *jobs: Job) -> bool:
    return all(store.jobs.get(job.job_id).status.is_final for job in jobs)


def stored_once(store: MemoryStore, document_id: str, text: str) -> bool:
    memories = store.document("default", document_id).memories
    return store.passage_texts(memories) == [text]


def test_a_job_whose_worker_was_killed_is_finished_by_another(
    store: MemoryStore, start: Start
) -> None:
    text = f"the tide comes in {HANG}"
    job = submit(store, text, "tide")
    victim = start()
    wait_until(lambda: store.jobs.get(job.job_id).status is JobStatus.RUNNING)
    victim.kill()
    victim.wait()
    start(model="plain")  # writes texts as they are
    wait_until(lambda: ended(store, job))
    done = store.jobs.get(job.job_id)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 2)
    assert stored_once(store, "tide", text)
    assert store.stats().memories == 1


def test_a_poison_document_dies_while_its_neighbours_are_stored(
    store: MemoryStore, start: Start
) -> None:
    good = {
        f"good-{number}": submit(store, f"text {number}", f"good-{number}") for number in (0, 1)
    }
    raising = submit(store, f"some {RAISE}")
    refused = submit(store, f"some {UNWRITABLE}")
    good["good-2"] = submit(store, "text 2", "good-2")
    start()
    wait_until(lambda: ended(store, raising, refused, *good.values()))
    assert store.jobs.get(raising.job_id).status is JobStatus.DEAD
    assert store.jobs.get(raising.job_id).attempts == 3
    assert store.jobs.get(refused.job_id).status is JobStatus.FAILED
    assert store.jobs.get(refused.job_id).attempts == 1
    assert all(stored_once(store, f"good-{number}", f"text {number}") for number in range(3))


@pytest.mark.parametrize(("poison", "status"), [(KILL, -signal.SIGKILL), (LOSE_DEVICE, 1)])
def test_a_document_that_kills_its_worker_dies_without_taking_its_neighbours(
    store: MemoryStore, start: Start, poison: str, status: int
) -> None:
    before = [submit(store, f"text {number}", f"d{number}") for number in range(3)]
    killer = submit(store, f"some {poison}")
    after = [submit(store, f"text {number}", f"d{number}") for number in range(3, 6)]
    for _ in range(3):  # as a supervisor would, and once more than it can kill
        assert start().wait(60) == status
    start()
    wait_until(lambda: ended(store, killer, *before, *after))
    dead = store.jobs.get(killer.job_id)
    assert (dead.status, dead.attempts) == (JobStatus.DEAD, 3)
    assert all(stored_once(store, f"d{number}", f"text {number}") for number in range(6))
    assert store.check() == []
