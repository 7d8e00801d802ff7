"""A writer that fails when told to, and what its tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memory_store.records import (
    Job,
    JobStatus,
    MemorySpec,
    Tier,
)
from memory_store.store import MemoryStore
from trainer_worker.dummy_writer import DummyWriter
from trainer_worker.worker import Worker
from trainer_worker.writer import Progress, SourceDocument, WriteError, Written

MakeWorker = Callable[..., Worker]
Write = Callable[..., Job]


class Saboteur:
    """The dummy writer, with something happening to the batches that ``trigger`` picks."""

    def __init__(
        self,
        dummy: DummyWriter,
        act: Callable[[], None],
        trigger: Callable[[list[str]], bool] = lambda _texts: True,
    ) -> None:
        self.spec: MemorySpec = dummy.spec
        self.quantiser = dummy.quantiser
        self.batches: list[list[str]] = []
        self._dummy = dummy
        self._act = act
        self._trigger = trigger

    def write(
        self, documents: Sequence[SourceDocument], tier: Tier, spec: MemorySpec, progress: Progress
    ) -> list[Written | WriteError]:
        texts = [document.text for document in documents]
        self.batches.append(texts)
        if self._trigger(texts):
            self._act()
        return self._dummy.write(documents, tier, spec, progress)


def fail_with(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def on_poison(texts: list[str]) -> bool:
    return any("poison" in text for text in texts)


def status(store: MemoryStore, job: Job) -> JobStatus:
    return store.jobs.get(job.job_id).status
