"""The store against a dictionary: any sequence of operations, a restart or a kill anywhere.

The model knows, per document, the text of the newest version and the text and tier that answer.
A kill leaves what is on the disk then, SQLite's log included: a copy of the home, opened anew.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memory_store import (
    CRASH_POINTS,
    Job,
    JobStatus,
    MemoryStore,
    PassageMemory,
    Tier,
    WriteMode,
    WriteRequest,
)
from memory_store.crashpoints import VARIABLE
from tests.unit.memory_store.making import SPEC, WORKER, Clock, open_store, passages_of, written

HAPPENED = ("a-after-commit", "e-after-commit", "i-after-commit")
"""Crash points behind the commit: what was killed there has happened all the same."""
IDS = st.sampled_from(["d1", "d2", "d3", "d4"])
TEXTS = st.text(alphabet="abcdef", min_size=1, max_size=35)


@dataclass
class Expected:
    """A document of the model."""

    version: int
    text: str
    answers: tuple[str, Tier] | None = None


class Killed(BaseException):
    """Stands for SIGKILL: nothing the dying process still does reaches the surviving copy."""


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self.home = self.root / "home-0"
        self.clock = Clock()
        self.store = self.open()
        self.expected: dict[str, Expected] = {}
        self.last_version: dict[str, int] = {}
        self.jobs_of_deleted: set[str] = set()
        self.kills = 0

    def open(self) -> MemoryStore:
        return open_store(self.home, clock=self.clock, orphan_grace_s=0.0)

    def teardown(self) -> None:
        self.everything_agrees()
        self.store.close()
        self.store = self.open()
        self.everything_agrees()
        self.store.close()
        shutil.rmtree(self.root)

    # --- rules

    @rule(document_id=IDS, text=TEXTS, mode=st.sampled_from(WriteMode), keep=st.booleans())
    def write(self, document_id: str, text: str, mode: WriteMode, keep: bool) -> None:
        request = WriteRequest(text, document_id, mode=mode, keep_text=keep)
        job = self.store.submit(request).job
        self.note_write(document_id, text)
        assert job.version == self.last_version[document_id]

    @rule(limit=st.integers(1, 4))
    def commit(self, limit: int) -> None:
        jobs = self.store.jobs.lease(WORKER, limit=limit, lease_s=60.0)
        self.finish(jobs)

    @rule(victim=IDS, replace=st.booleans())
    def commit_what_was_replaced_or_deleted_meanwhile(self, victim: str, replace: bool) -> None:
        jobs = self.store.jobs.lease(WORKER, limit=4, lease_s=60.0)
        batch = [written(self.store, job) for job in jobs]
        if victim in self.expected:
            if replace:
                self.write(victim, "xyz", WriteMode.FAST, True)
            else:
                self.delete(victim)
        done = self.store.commit(batch, SPEC, WORKER)
        self.record([job for job in done if job.status is JobStatus.SUCCEEDED])
        assert all(job.status is JobStatus.CANCELLED for job in done if job.document_id == victim)

    @rule(retryable=st.booleans())
    def fail(self, retryable: bool) -> None:
        for job in self.store.jobs.lease(WORKER, limit=1, lease_s=60.0):
            self.store.jobs.fail(job.job_id, WORKER, code="x", message="x", retryable=retryable)
        self.clock.advance(61.0)

    @rule()
    def retry_what_failed(self) -> None:
        for status in (JobStatus.FAILED, JobStatus.DEAD):
            for job in self.store.jobs.list(status=status).items:
                current = self.expected.get(job.document_id)
                if job.job_id in self.jobs_of_deleted:
                    continue
                if current is not None and current.version == job.version:
                    self.store.jobs.retry(job.job_id)

    @rule()
    def lose_a_lease(self) -> None:
        self.store.jobs.lease("crashed worker", limit=1, lease_s=60.0)
        self.clock.advance(61.0)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def delete_one(self, data: st.DataObject) -> None:
        self.delete(data.draw(st.sampled_from(sorted(self.expected))))

    @rule()
    def compact(self) -> None:
        self.store.compact()
        assert self.store.stats().dead_rows == 0

    @rule(save=st.booleans())
    def restart(self, save: bool) -> None:
        if save:
            self.store.save_index()
        self.store.close()
        self.store = self.open()

    @rule()
    def delete_the_collection_and_make_it_again(self) -> None:
        self.jobs_of_deleted |= {job.job_id for job in self.store.jobs.list(limit=1000).items}
        self.store.delete_collection("default")
        self.store.put_collection("default", SPEC)
        self.expected.clear()
        self.last_version.clear()

    @rule()
    def kill_between_two_operations(self) -> None:
        self.survive(self.copy_home())

    @rule(
        document_id=IDS,
        text=TEXTS,
        point=st.sampled_from(["a-before-commit", "a-after-commit"]),
    )
    def kill_while_writing(self, document_id: str, text: str, point: str) -> None:
        request = WriteRequest(text, document_id)
        if self.killed_at(point, lambda: self.store.submit(request)) and point in HAPPENED:
            self.note_write(document_id, text)

    @rule(point=st.sampled_from(["c-before-shard", "d-renamed", "e-before-commit", HAPPENED[1]]))
    def kill_while_committing(self, point: str) -> None:
        jobs = self.store.jobs.lease(WORKER, limit=4, lease_s=60.0)
        batch = [written(self.store, job) for job in jobs]
        if self.killed_at(point, lambda: self.store.commit(batch, SPEC, WORKER)):
            if point in HAPPENED:
                self.record(jobs)
            self.clock.advance(61.0)  # the lease of the dead worker expires

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), point=st.sampled_from(["i-before-commit", "i-after-commit"]))
    def kill_while_deleting(self, data: st.DataObject, point: str) -> None:
        victim = data.draw(st.sampled_from(sorted(self.expected)))
        assert self.killed_at(point, lambda: self.store.delete_document("default", victim))
        if point in HAPPENED:
            del self.expected[victim]

    @rule(point=st.sampled_from([point for point in CRASH_POINTS if point[0] in "dg"]))
    def kill_while_compacting(self, point: str) -> None:
        self.killed_at(point, self.store.compact)

    @rule()
    def save_and_look_with_fresh_eyes(self) -> None:
        self.store.save_index()
        working, self.store = self.store, self.open()
        self.everything_agrees()
        self.store.close()
        self.store = working

    # --- invariants

    @invariant()
    def documents_and_memories_are_those_of_the_model(self) -> None:
        listed = {document.document_id: document for document in self.store.documents().items}
        assert listed.keys() == self.expected.keys()
        for document_id, expected in self.expected.items():
            document = listed[document_id]
            passages = self.passages(document_id)
            assert document.version == expected.version
            assert len(document.memories) == len(passages)
            assert {memory.tier for memory in document.memories} <= (
                {expected.answers[1]} if expected.answers else set()
            )
            for memory, passage, codes in zip(
                document.memories, passages, self.store.load_codes(document.memories), strict=True
            ):
                assert (memory.text_start, memory.text_end) == (
                    passage.text_start,
                    passage.text_end,
                )
                np.testing.assert_allclose(codes, passage.codes, rtol=2**-8)
        collection = self.store.collection("default")
        assert collection.documents == len(listed)
        assert collection.memories == sum(len(self.passages(name)) for name in listed)

    @invariant()
    def every_vector_finds_its_own_text_first(self) -> None:
        total = sum(len(self.passages(name)) for name in self.expected)
        for document_id in self.expected:
            for passage in self.passages(document_id):
                hits = self.store.select("default", passage.key, 100)
                assert len(hits) == total
                (codes,) = self.store.load_codes([hits[0].memory])
                # equal texts have equal memories, whoever wrote them
                np.testing.assert_allclose(codes, passage.codes, rtol=2**-8)

    @invariant()
    def no_write_is_lost(self) -> None:
        """What was acknowledged is there, or a job that can still make it is."""
        jobs: dict[tuple[str, int], set[JobStatus]] = {}
        for job in self.store.jobs.list(limit=1000).items:
            jobs.setdefault((job.document_id, job.version), set()).add(job.status)
        for document_id, expected in self.expected.items():
            known = jobs[document_id, expected.version]
            assert known - {JobStatus.CANCELLED}, (document_id, known)

    def everything_agrees(self) -> None:
        assert self.store.check() == []
        self.documents_and_memories_are_those_of_the_model()
        self.every_vector_finds_its_own_text_first()

    # --- the model

    def passages(self, document_id: str) -> list[PassageMemory]:
        answers = self.expected[document_id].answers
        return passages_of(*answers) if answers else []

    def finish(self, jobs: list[Job]) -> None:
        done = self.store.commit([written(self.store, job) for job in jobs], SPEC, WORKER)
        assert all(job.status is JobStatus.SUCCEEDED for job in done)
        self.record(done)

    def record(self, done: list[Job]) -> None:
        for job in done:
            expected = self.expected[job.document_id]
            assert expected.version == job.version
            expected.answers = (expected.text, job.tier)

    def note_write(self, document_id: str, text: str) -> None:
        version = self.last_version.get(document_id, 0) + 1
        self.last_version[document_id] = version
        before = self.expected.get(document_id)
        self.expected[document_id] = Expected(version, text, before.answers if before else None)

    # --- kills

    def killed_at(self, point: str, operation: Callable[[], object]) -> bool:
        """Run it and go on with what is on the disk at ``point``. False: it never got there."""

        def die(_pid: int, _signal: int) -> None:
            raise Killed(self.copy_home())

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, point)
            patch.setattr(os, "kill", die)
            try:
                operation()
            except Killed as killed:
                self.survive(killed.args[0])
                return True
        return False

    def copy_home(self) -> Path:
        self.kills += 1
        copy = self.root / f"home-{self.kills}"
        shutil.copytree(self.home, copy)
        return copy

    def survive(self, copy: Path) -> None:
        self.store.close()
        shutil.rmtree(self.home)
        self.home = copy
        self.store = self.open()
        assert self.store.check() == []

    def delete(self, document_id: str) -> None:
        self.store.delete_document("default", document_id)
        del self.expected[document_id]


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
