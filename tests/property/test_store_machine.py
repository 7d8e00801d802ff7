"""The store against a dictionary: any sequence of operations, a restart anywhere.

The model knows, per document, the text of the newest version and the text and tier that answer.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memory_store import (
    Job,
    JobStatus,
    MemoryStore,
    PassageMemory,
    Tier,
    WriteMode,
    WriteRequest,
)
from tests.unit.memory_store.making import SPEC, WORKER, Clock, open_store, passages_of, written

IDS = st.sampled_from(["d1", "d2", "d3", "d4"])
TEXTS = st.text(alphabet="abcdef", min_size=1, max_size=35)


@dataclass
class Expected:
    """A document of the model."""

    version: int
    text: str
    answers: tuple[str, Tier] | None = None


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self.clock = Clock()
        self.store = self.open()
        self.expected: dict[str, Expected] = {}
        self.last_version: dict[str, int] = {}

    def open(self) -> MemoryStore:
        return open_store(self.home, clock=self.clock, orphan_grace_s=0.0)

    def teardown(self) -> None:
        self.everything_agrees()
        self.store.close()
        self.store = self.open()
        self.everything_agrees()
        self.store.close()
        shutil.rmtree(self.home)

    # --- rules

    @rule(document_id=IDS, text=TEXTS, mode=st.sampled_from(WriteMode), keep=st.booleans())
    def write(self, document_id: str, text: str, mode: WriteMode, keep: bool) -> None:
        request = WriteRequest(text, document_id, mode=mode, keep_text=keep)
        job = self.store.submit(request).job
        version = self.last_version.get(document_id, 0) + 1
        assert job.version == version
        self.last_version[document_id] = version
        before = self.expected.get(document_id)
        self.expected[document_id] = Expected(version, text, before.answers if before else None)

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
