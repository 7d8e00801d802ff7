"""The ``MemoryWriter`` seam: what turns documents into memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from memory_store.records import MemorySpec, PassageMemory, Tier
from memory_store.slot_quantiser import SlotQuantiser

Progress = Callable[[Sequence[float], str], None]
"""Called between two steps with each document's progress in 0 … 1 and a stage name. It may take
its time (queries pass), and raise to abandon the batch: the worker does when it lost its lease or
is asked to stop."""


class WriteError(Exception):
    """This document cannot be written; trying again would not help. ``code`` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class DeviceLost(BaseException):
    """The accelerator is gone for this process: nothing more can be written before it is another.

    A BaseException, so that no document is blamed for it.
    """


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """What a writer is given of a document."""

    document_id: str
    text: str
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer made of one document."""

    passages: Sequence[PassageMemory]
    result: dict[str, Any]  # loss, perplexity, token_accuracy, steps …: reported on the job


class MemoryWriter(Protocol):
    """Compresses documents, in batches: their memories are independent of each other."""

    @property
    def spec(self) -> MemorySpec:
        """Fingerprint, d, and the m it writes where a collection asks for no other."""
        ...

    @property
    def quantiser(self) -> SlotQuantiser | None:
        """The bundle's: what rq codes are stored with; None if it has none."""
        ...

    def write(
        self, documents: Sequence[SourceDocument], tier: Tier, spec: MemorySpec, progress: Progress
    ) -> list[Written | WriteError]:
        """One outcome per document, in order. One bad document never fails its batch.

        Args:
            spec: the collection's. It has this writer's fingerprint and d, and an m and a code
                format of its own.

        The codes come as float32 (m, d); the store encodes them in that format.

        Raises: DeviceLost
        """
        ...
