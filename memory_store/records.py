"""The nouns of the store: what a row of the catalogue looks like to the rest of the house.

Symbols: m = slots per passage, d = code dimension, K = memories selected for a query.
All timestamps are Unix seconds (wall clock, for display and lease expiry only).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")
FloatArray = npt.NDArray[np.float32]
HalfArray = npt.NDArray[np.float16]

DEFAULT_COLLECTION = "default"


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"

    @property
    def is_final(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class WriteMode(StrEnum):
    """What the client asked for: ``auto`` = fast at once, refined behind."""

    FAST = "fast"
    FIT = "fit"
    AUTO = "auto"


class Tier(StrEnum):
    """How a memory was made, and what a job makes."""

    FAST = "fast"
    FIT = "fit"


class CodeFormat(StrEnum):
    """How a code is stored. bf16: 2 bytes a number; int8: 1; int4: half, + float16 scales;
    rq: a few bytes a slot, by the bundle's quantiser."""

    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"
    RQ = "rq"


@dataclass(frozen=True, slots=True)
class MemorySpec:
    """What a collection pins: only memories of this bundle and shape may enter it."""

    fingerprint: str
    slots: int  # m; 0 = chunks of text that have a key and no memory
    z_dim: int  # d
    code_format: CodeFormat = CodeFormat.BF16


@dataclass(frozen=True, slots=True)
class Collection:
    name: str
    spec: MemorySpec
    created_at: float
    documents: int = 0
    memories: int = 0


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """A document as the client sent it (already validated)."""

    text: str
    document_id: str | None = None  # None: the store makes one
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    collection: str = DEFAULT_COLLECTION
    mode: WriteMode = WriteMode.AUTO
    keep_text: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work of the queue: make the memories of one document version in one tier."""

    job_id: str
    collection: str
    document_id: str
    version: int
    tier: Tier
    mode: WriteMode
    status: JobStatus
    progress: float  # 0 … 1
    attempts: int
    max_attempts: int
    error_code: str | None
    error_message: str | None
    result: Mapping[str, Any] | None  # loss, perplexity, steps …, set on success
    refine_job_id: str | None  # mode auto: the follow-up fit job, set when this one succeeds
    created_at: float
    started_at: float | None
    finished_at: float | None
    lease_owner: str | None
    lease_expires_at: float | None


@dataclass(frozen=True, slots=True)
class Submission:
    """Answer to a write. ``created`` is False when the idempotency key was seen before."""

    job: Job
    created: bool


@dataclass(frozen=True, slots=True)
class PassageMemory:
    """One passage compressed by a writer, ready to be stored."""

    codes: FloatArray  # (m, d)
    key: FloatArray  # (d,) unit norm; what the index holds
    text_start: int  # character span in the document's text
    text_end: int
    num_tokens: int  # L
    stats: Mapping[str, float] = field(default_factory=dict)  # e.g. nats_per_token


@dataclass(frozen=True, slots=True)
class WrittenDocument:
    """The outcome of a job: all passages of its document in one tier."""

    job: Job
    passages: Sequence[PassageMemory]
    result: Mapping[str, Any]  # reported on the job


@dataclass(frozen=True, slots=True)
class Memory:
    """One stored passage memory: a catalogue row that points into a shard."""

    memory_id: int
    collection: str
    document_id: str
    version: int
    passage: int  # 0-based position in the document
    tier: Tier
    fingerprint: str
    shard: str
    row: int
    checksum: str
    num_bytes: int
    num_tokens: int
    text_start: int
    text_end: int
    stats: Mapping[str, float]
    created_at: float


@dataclass(frozen=True, slots=True)
class Document:
    """The current version of a document, with its live memories."""

    collection: str
    document_id: str
    version: int
    title: str | None
    metadata: Mapping[str, Any]
    has_text: bool
    num_chars: int
    created_at: float
    memories: Sequence[Memory] = ()

    @property
    def num_bytes(self) -> int:
        return sum(memory.num_bytes for memory in self.memories)


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory the index selected for a query, best first."""

    memory: Memory
    score: float
    title: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a list; ``next_cursor`` is None on the last."""

    items: Sequence[Item]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    worker_id: str
    fingerprint: str
    state: str  # loading | idle | working | stopping
    heartbeat_at: float
    started_at: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Something ``doctor`` found, and what repairs it."""

    code: str
    message: str
    repair: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class DocumentSource:
    """What a worker is given of the document version its job is about."""

    document_id: str
    text: str
    title: str | None


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did."""

    shards_before: int
    shards_after: int
    rows_dropped: int  # shard rows no memory points to any more
    bytes_freed: int  # shards and catalogue together; negative if both grew meanwhile
    shards_skipped: int = 0  # damaged ones, left as they are for doctor


@dataclass(frozen=True, slots=True)
class StoredAmount:
    """What some collections hold: current documents, bytes of their texts and live memories."""

    documents: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters for metrics. Failures, rebuilds, opens and hits count events of this process only;
    jobs ended and fits count since the home was made."""

    documents: int
    memories: int
    queued: int
    running: int
    dead: int
    oldest_queued_age_s: float
    shard_bytes: int
    text_bytes: int
    catalogue_bytes: int
    index_bytes: int
    live_rows: int
    dead_rows: int
    checksum_failures: int
    index_rebuilds: int
    shard_opens: int
    shard_cache_hits: int  # reads that found their shard open
    jobs_ended: Mapping[JobStatus, int]
    fit_jobs: int
    fit_seconds: float  # of worker time, all fit jobs together
    fit_steps: float  # these two: sums over fit jobs of their passages' means
    fit_token_accuracy: float
    last_snapshot_age_s: float  # inf: there was none
    last_audit_age_s: float  # inf: there was none
    audit_problems: int  # that it left
