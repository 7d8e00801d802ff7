"""What is remembered: codes in sealed shards, a catalogue with its queue, an index over keys.

Knows neither models nor HTTP, and never imports torch.
"""

from memory_store.crashpoints import CRASH_POINTS
from memory_store.errors import (
    ConflictError,
    CorruptionError,
    DiskFailedError,
    DiskFullError,
    FingerprintMismatchError,
    IdempotencyConflictError,
    IncompatibleFormatError,
    InvalidCursorError,
    InvalidFilterError,
    InvalidMemoryError,
    LeaseLostError,
    NotFoundError,
    QuantiserMissingError,
    QueueFullError,
    StoreError,
)
from memory_store.index.compressed_index import CompressedIndex
from memory_store.index.flat_index import FlatIndex
from memory_store.index.vector_index import NumpyIndex, VectorIndex
from memory_store.jobs.memory_jobs import InMemoryJobQueue
from memory_store.jobs.queue import JobQueue
from memory_store.jobs.sqlite_jobs import SqliteJobQueue
from memory_store.records import (
    DEFAULT_COLLECTION,
    CodeFormat,
    Collection,
    CompactionReport,
    Document,
    DocumentSource,
    FloatArray,
    Hit,
    Job,
    JobStatus,
    Memory,
    MemorySpec,
    Page,
    PassageMemory,
    Problem,
    StoreStats,
    Submission,
    Tier,
    WorkerInfo,
    WriteMode,
    WriteRequest,
    WrittenDocument,
)
from memory_store.slot_quantiser import SlotQuantiser
from memory_store.snapshots.manifest import Snapshot
from memory_store.snapshots.restore import RestoreReport
from memory_store.snapshots.snapshots import Snapshots
from memory_store.snapshots.take import SnapshotReport
from memory_store.store import MemoryStore

__all__ = [
    "CRASH_POINTS",
    "DEFAULT_COLLECTION",
    "CodeFormat",
    "Collection",
    "CompactionReport",
    "CompressedIndex",
    "ConflictError",
    "CorruptionError",
    "DiskFailedError",
    "DiskFullError",
    "Document",
    "DocumentSource",
    "FingerprintMismatchError",
    "FlatIndex",
    "FloatArray",
    "Hit",
    "IdempotencyConflictError",
    "InMemoryJobQueue",
    "IncompatibleFormatError",
    "InvalidCursorError",
    "InvalidFilterError",
    "InvalidMemoryError",
    "Job",
    "JobQueue",
    "JobStatus",
    "LeaseLostError",
    "Memory",
    "MemorySpec",
    "MemoryStore",
    "NotFoundError",
    "NumpyIndex",
    "Page",
    "PassageMemory",
    "Problem",
    "QuantiserMissingError",
    "QueueFullError",
    "RestoreReport",
    "SlotQuantiser",
    "Snapshot",
    "SnapshotReport",
    "Snapshots",
    "SqliteJobQueue",
    "StoreError",
    "StoreStats",
    "Submission",
    "Tier",
    "VectorIndex",
    "WorkerInfo",
    "WriteMode",
    "WriteRequest",
    "WrittenDocument",
]
