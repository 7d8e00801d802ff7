"""``MemoryStore``: the one door to a home directory.

Truth is the catalogue (SQLite) and the sealed shards; the indexes are caches. Whatever returned is
durable. Any number of processes may open the same home, and every method may be called from any
thread. The work is done by the modules beside this one; here is what each operation promises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from memory_store.audit import recovery, routine
from memory_store.audit.opening import mend_derived
from memory_store.catalogue import collections, documents, intake, memories, workers
from memory_store.catalogue.collections import CollectionRow
from memory_store.commit import commit
from memory_store.files import free_bytes
from memory_store.index.indexes import Indexes
from memory_store.index.vector_index import Found
from memory_store.jobs.queue import JobQueue
from memory_store.records import (
    Collection,
    CompactionReport,
    Document,
    DocumentSource,
    FloatArray,
    Hit,
    Job,
    Memory,
    MemorySpec,
    Page,
    Problem,
    StoredAmount,
    StoreStats,
    Submission,
    WorkerInfo,
    WriteRequest,
    WrittenDocument,
)
from memory_store.shards import compaction
from memory_store.shards.code_reader import load_codes
from memory_store.slot_quantiser import SlotQuantiser
from memory_store.snapshots.snapshots import Snapshots
from memory_store.snapshots.take import SnapshotReport
from memory_store.stats import measure_amount, measure_store
from memory_store.storage import Storage

ORPHAN_GRACE_S = 3600.0
SELECT_ATTEMPTS = 10


class MemoryStore:
    """Open one with :meth:`open`. A context manager."""

    def __init__(self, storage: Storage, *, max_queue: int, disk_floor_bytes: int) -> None:
        self._storage = storage
        self._max_queue = max_queue
        self._disk_floor_bytes = disk_floor_bytes
        self._indexes = Indexes(storage)
        self.jobs: JobQueue = storage.jobs
        self.right_of_way = storage.right_of_way

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        max_queue: int = 10_000,
        disk_floor_bytes: int = 0,
        max_attempts: int = 3,
        orphan_grace_s: float = ORPHAN_GRACE_S,
        clock: Callable[[], float] = time.time,
        mend: bool = True,
    ) -> MemoryStore:
        """Create ``home`` (0700) if needed, migrate it, mend indexes, sweep up what a crash left.

        Args:
            max_queue: queued and running jobs above which ``submit`` refuses.
            disk_floor_bytes: free bytes below which ``submit`` refuses.
            max_attempts: of each new job.
            orphan_grace_s: unused files are left alone until this age.
            clock: Unix seconds; tests pass their own.
            mend: False = leave damage as it is, for :meth:`check` to tell of.

        Raises:
            IncompatibleFormatError: a newer paramem wrote this home.
            CorruptionError: the catalogue is damaged.
            DiskFullError, DiskFailedError: the home cannot be written.
        """
        storage = Storage.open(
            home, max_attempts=max_attempts, clock=clock, orphan_grace_s=orphan_grace_s
        )
        try:
            if mend:
                mend_derived(storage)
            recovery.sweep(storage)
        except BaseException:
            storage.close()
            raise
        return cls(storage, max_queue=max_queue, disk_floor_bytes=disk_floor_bytes)

    def close(self) -> None:
        """Idempotent. Does not save the indexes."""
        self._indexes.close()
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def register_quantiser(self, fingerprint: str, quantiser: SlotQuantiser) -> None:
        """Make a bundle's quantiser known, so that its rq codes can be written and read."""
        self._storage.quantisers.register(fingerprint, quantiser)

    # --- collections

    def put_collection(self, name: str, spec: MemorySpec) -> Collection:
        """Create it; the same spec again changes nothing.

        Raises:
            ConflictError: it exists with another spec; the message has both.
            QuantiserMissingError: it is to hold rq codes of a bundle that is not loaded.
        """
        self._storage.quantisers.of(spec)
        with self._storage.catalogue.write() as connection:
            return collections.put(connection, name, spec, self._storage.clock())

    def collection(self, name: str) -> Collection:
        """Raises: NotFoundError."""
        with self._storage.catalogue.look() as connection:
            return collections.find(connection, name).collection

    def collections(
        self, *, among: Sequence[str] | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[Collection]:
        """By name; ``among``: only these. Raises: InvalidCursorError."""
        with self._storage.catalogue.read() as connection:
            return collections.page(connection, cursor, limit, among)

    def delete_collection(self, name: str) -> None:
        """Remove everything in it and cancel its jobs; the name is free at once.

        Raises: NotFoundError.
        """
        intake.delete_collection(self._storage, name)

    # --- writing

    def submit(self, request: WriteRequest, *, idempotency_key: str | None = None) -> Submission:
        """Take a document in: durable, with its job, when this returns.

        A ``document_id`` that exists gets a new version; unfinished jobs of older versions are
        cancelled, their memories answer until the new ones are committed. The same key with the
        same body gives the first submission again.

        Raises:
            NotFoundError: no such collection.
            QueueFullError, DiskFullError, DiskFailedError: nothing was acknowledged; try again
                later with the same key.
            IdempotencyConflictError: the key was used with another body.
        """
        return intake.submit(
            self._storage,
            request,
            idempotency_key=idempotency_key,
            max_queue=self._max_queue,
            disk_floor_bytes=self._disk_floor_bytes,
        )

    def document_source(self, job: Job) -> DocumentSource:
        """What a job works on. Raises: NotFoundError: its version was deleted or replaced."""
        with self._storage.catalogue.read() as connection:
            return documents.source(connection, job)

    def commit(
        self, written: Sequence[WrittenDocument], spec: MemorySpec, worker_id: str
    ) -> list[Job]:
        """Store what a worker made of its leased jobs, replacing the documents' old memories.

        One shard, one transaction per collection. Jobs that are no longer this worker's
        (cancelled, superseded, lease lost) are skipped; a document whose codes cannot be stored
        fails alone (``invalid_memory``).

        Returns: the jobs as they are now, in order.

        Raises:
            FingerprintMismatchError: ``spec`` is not the collection's; nothing was stored.
            DiskFullError: nothing was stored.
        """
        return commit(self._storage, written, spec, worker_id)

    # --- reading

    def document(self, collection: str, document_id: str) -> Document:
        """The newest version, with the memories that answer for it now. Raises: NotFoundError."""
        with self._storage.catalogue.read() as connection:
            return documents.get(connection, collection, document_id)

    def documents(
        self,
        *,
        collection: str | None = None,
        among: Sequence[str] | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Document]:
        """By collection and id; ``among``: of these. Raises: InvalidCursorError, NotFoundError."""
        with self._storage.catalogue.read() as connection:
            return documents.page(connection, collection, cursor, limit, among)

    def document_text(self, collection: str, document_id: str) -> str | None:
        """The newest version's text; None if it was not kept. Raises: NotFoundError."""
        with self._storage.catalogue.read() as connection:
            return documents.kept_text(connection, collection, document_id)

    def passage_texts(self, memories: Sequence[Memory]) -> list[str | None]:
        """The texts that memories were made from; None where it was not kept."""
        with self._storage.catalogue.read() as connection:
            texts = [documents.text_of_memory(connection, each.memory_id) for each in memories]
        found = zip(texts, memories, strict=True)
        return [text and text[each.text_start : each.text_end] for text, each in found]

    def delete_document(self, collection: str, document_id: str) -> None:
        """Never served again once this returns; the bytes go at the next compaction.

        Raises: NotFoundError.
        """
        intake.delete_document(self._storage, collection, document_id)

    def delete_documents(self, collection: str, filters: Mapping[str, Any]) -> int:
        """Delete what a filter selects. Returns how many documents.

        Raises:
            NotFoundError; InvalidFilterError: no filter, or one that cannot be applied.
        """
        return intake.delete_documents(self._storage, collection, filters)

    def select(
        self,
        collection: str,
        vector: FloatArray,
        top_k: int,
        *,
        filters: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """The ``top_k`` live memories whose keys are nearest by inner product, best first.

        Reads its own and everyone's committed writes. Exact up to 30,000 memories, and always under
        filters (see :mod:`memory_store.catalogue.filters`); beyond, a few in a hundred of the best
        ten may be missed (experiments/LOG.md).

        Args:
            vector: (d,)

        Raises:
            NotFoundError, InvalidFilterError
            ValueError: ``vector`` has another shape, or is not finite.
        """
        return self._select(
            collection, filters, lambda row, ids: self._indexes.by_key(row, vector, top_k, ids)
        )

    def select_by_words(
        self,
        collection: str,
        query: str,
        top_k: int,
        *,
        filters: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """As :meth:`select`, by BM25 of the kept texts; passages without one are never found.

        Raises:
            NotFoundError, InvalidFilterError
        """
        return self._select(
            collection, filters, lambda row, ids: self._indexes.by_words(row, query, top_k, ids)
        )

    def _select(
        self,
        collection: str,
        filters: Mapping[str, Any] | None,
        search: Callable[[CollectionRow, list[int] | None], Found],
    ) -> list[Hit]:
        hits: list[Hit] = []
        for _ in range(SELECT_ATTEMPTS):
            catalogue, allowed = self._storage.catalogue, None
            with catalogue.read() if filters else catalogue.look() as connection:
                row = collections.find(connection, collection)
                if filters:
                    allowed = memories.matching(connection, row.collection_id, filters)
            found = dict(search(row, allowed))
            with self._storage.catalogue.look() as connection:
                hits = memories.hits(connection, found)
            if len(hits) == len(found):
                break
            # a memory was replaced between the search and the look-up: search again
        return hits

    def load_codes(self, memories: Sequence[Memory]) -> list[FloatArray]:
        """K of (m, d) float32, every byte verified.

        A memory whose shard was compacted away is looked up once more; if it was replaced
        meanwhile, its successor is loaded.

        Raises:
            CorruptionError: the bytes are not those that were written.
            NotFoundError: a memory was deleted meanwhile.
        """
        return load_codes(self._storage, memories)

    # --- operating

    def snapshot(
        self, snapshots: Snapshots, progress: Callable[[float], None] = lambda _fraction: None
    ) -> SnapshotReport:
        """See :meth:`memory_store.snapshots.snapshots.Snapshots.take`."""
        return snapshots.take(self._storage, progress)

    def amount(self, among: Sequence[str] | None = None) -> StoredAmount:
        """What these collections hold; None: all. Counts rows: not for every request."""
        return measure_amount(self._storage, among)

    def stats(self) -> StoreStats:
        return measure_store(self._storage)

    def free_bytes(self) -> int:
        """Bytes that may still be written under the home."""
        return free_bytes(self._storage.home)

    def workers(self, *, max_age_s: float) -> list[WorkerInfo]:
        """Workers heard of in the last ``max_age_s`` seconds."""
        with self._storage.catalogue.read() as connection:
            return workers.heard_since(connection, self._storage.clock() - max_age_s)

    def beat(self, info: WorkerInfo) -> None:
        """Record a worker's state."""
        with self._storage.catalogue.write() as connection:
            workers.upsert(connection, info)

    def forget_worker(self, worker_id: str) -> None:
        with self._storage.catalogue.write() as connection:
            workers.delete(connection, worker_id)

    def compact(
        self,
        *,
        min_dead_fraction: float = 0.0,
        progress: Callable[[float], None] | None = None,
    ) -> CompactionReport:
        """Give back the bytes of what was deleted and replaced, merge small shards.

        Args:
            min_dead_fraction: leave large shards alone whose dead rows are fewer than this.
            progress: called with 0 … 1.

        Raises:
            DiskFullError: nothing was lost; free some space first.
        """
        return compaction.compact(self._storage, min_dead_fraction, progress)

    def check(self, *, repair: bool = False) -> list[Problem]:
        """Audit everything against the ground truth; see :mod:`memory_store.audit.doctor`."""
        return routine.check(self._storage, self._indexes.loaded(), repair=repair)

    def check_if_due(self, every_s: float) -> list[Problem] | None:
        """Audit, unless the last one, whoever made it, was less than ``every_s`` seconds ago or is
        being made: then None. A problem is one that a second look finds, too."""
        return routine.check_if_due(self._storage, self._indexes.loaded(), every_s)

    def rebuild_index(self, collection: str | None = None) -> int:
        """Make indexes again from the shards and save them. Returns the vectors indexed.

        Raises:
            NotFoundError
        """
        if collection is not None:
            self.collection(collection)
        return self._indexes.rebuild(collection)

    def save_index(self) -> None:
        """Write the indexes this process has loaded, so that the next one starts faster."""
        for row in self._indexes.live():
            index = self._indexes.loaded().get(row.collection_id)
            if index is not None:
                index.sync(row.change_seq)
                index.save()
