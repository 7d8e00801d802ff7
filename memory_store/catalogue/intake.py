"""Taking documents in and out: submit and delete. One transaction each, durable on return."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import uuid_utils

from memory_store.catalogue import collections, documents, memories, row_sums
from memory_store.catalogue.collections import CollectionRow
from memory_store.catalogue.database import Connection
from memory_store.crashpoints import reach
from memory_store.errors import (
    DiskFullError,
    IdempotencyConflictError,
    InvalidFilterError,
    NotFoundError,
    QueueFullError,
)
from memory_store.files import free_bytes
from memory_store.jobs import sqlite_jobs
from memory_store.jobs.queue import first_tier
from memory_store.records import Submission, Tier, WriteMode, WriteRequest
from memory_store.storage import Storage


def submit(
    storage: Storage,
    request: WriteRequest,
    *,
    idempotency_key: str | None,
    max_queue: int,
    disk_floor_bytes: int,
) -> Submission:
    """See :meth:`memory_store.store.MemoryStore.submit`."""
    request_hash = hash_request(request)
    body = documents.compress(request.text)
    document_id = request.document_id
    if document_id is None:
        document_id = f"doc_{uuid_utils.uuid7().hex}"
    now = storage.clock()
    with storage.catalogue.write() as connection:
        row = collections.find(connection, request.collection)
        if idempotency_key is not None:
            # of the collection: tenants neither collide on a key nor learn of each other's
            idempotency_key = f"{row.collection_id}/{idempotency_key}"
            seen = _seen(connection, idempotency_key, request_hash)
            if seen is not None:
                return seen
        _refuse_when_full(storage, connection, max_queue, disk_floor_bytes)
        collection_id = row.collection_id
        sqlite_jobs.cancel_of_documents(connection, collection_id, [document_id], now)
        version = documents.insert_version(
            connection, collection_id, document_id, request, body, now
        )
        job_id = storage.jobs.insert(
            connection, collection_id, document_id, version, first_tier(request.mode), request.mode
        )
        documents.drop_texts(connection, collection_id, [document_id])
        if idempotency_key is not None:
            connection.execute(
                "INSERT INTO idempotency_keys (key, request_hash, job_id, created_at)"
                " VALUES (?, ?, ?, ?)",
                (idempotency_key, request_hash, job_id, now),
            )
        job = sqlite_jobs.find(connection, job_id)
        reach("a-before-commit")
    reach("a-after-commit")
    return Submission(job, created=True)


def delete_document(storage: Storage, collection: str, document_id: str) -> None:
    """Raises: NotFoundError."""
    with storage.catalogue.write() as connection:
        row = collections.find(connection, collection)
        if not _delete(storage, connection, row, [document_id]):
            raise NotFoundError(
                f"there is no document {document_id!r} in collection {collection!r}",
                param="document_id",
            )
        reach("i-before-commit")
    reach("i-after-commit")


def delete_documents(storage: Storage, collection: str, filters: Mapping[str, Any]) -> int:
    """Returns how many.

    Raises:
        NotFoundError, InvalidFilterError
    """
    if not filters:
        raise InvalidFilterError(
            "deleting needs a filter; to delete everything, delete the collection",
            param="filters",
        )
    with storage.catalogue.write() as connection:
        row = collections.find(connection, collection)
        wanted = documents.matching(connection, row.collection_id, filters)
        return _delete(storage, connection, row, wanted)


def delete_collection(storage: Storage, name: str) -> None:
    """Raises: NotFoundError."""
    with storage.catalogue.write() as connection:
        row = collections.find(connection, name)
        everything = documents.matching(connection, row.collection_id, {})
        _delete(storage, connection, row, everything)
        collections.delete(connection, row.collection_id, storage.clock())
    storage.shards.forget(row.collection_id)


def write_again(
    storage: Storage,
    connection: Connection,
    collection_id: int,
    document_id: str,
    *,
    refine: bool,
) -> bool:
    """Queue the current version once more, if its text is there. False: it is lost."""
    row = connection.execute(
        "SELECT d.version, EXISTS (SELECT 1 FROM texts t WHERE t.document_key = d.document_key),"
        " EXISTS (SELECT 1 FROM jobs j WHERE j.collection_id = d.collection_id"
        "  AND j.document_id = d.document_id AND j.version = d.version"
        "  AND j.status IN ('queued', 'running'))"
        " FROM documents d WHERE d.collection_id = ? AND d.document_id = ? AND d.is_current = 1",
        (collection_id, document_id),
    ).fetchone()
    if row is None:
        return False
    version, has_text, has_job = row
    if has_text and not has_job:
        mode = WriteMode.AUTO if refine else WriteMode.FAST
        storage.jobs.insert(connection, collection_id, document_id, version, Tier.FAST, mode)
    return bool(has_text)


def hash_request(request: WriteRequest) -> str:
    """Equal for equal bodies, whatever the order of the metadata."""
    fields = asdict(request) | {"metadata": dict(request.metadata)}
    encoded = json.dumps(fields, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(encoded.encode()).hexdigest()


def _seen(connection: Connection, key: str, request_hash: str) -> Submission | None:
    row = connection.execute(
        "SELECT request_hash, job_id FROM idempotency_keys k WHERE key IS ?"
        f" AND {row_sums.sound('idempotency_keys', 'k')}",
        (key,),
    ).fetchone()
    if row is None:
        return None
    if row[0] != request_hash:
        raise IdempotencyConflictError(
            "this Idempotency-Key was used with another body; use a new key",
            param="Idempotency-Key",
        )
    return Submission(sqlite_jobs.find(connection, row[1]), created=False)


def _refuse_when_full(
    storage: Storage, connection: Connection, max_queue: int, disk_floor_bytes: int
) -> None:
    depth = sqlite_jobs.depth(connection)
    if depth >= max_queue:
        wait_s = sqlite_jobs.retry_after_s(connection, storage.clock())
        raise QueueFullError(
            f"the write queue is full ({depth} jobs); try again in {wait_s:.0f} s",
            retry_after_s=wait_s,
        )
    free = free_bytes(storage.home)
    if free < disk_floor_bytes:
        raise DiskFullError(
            f"{free} bytes are free under the store's home and disk_floor_bytes is "
            f"{disk_floor_bytes}; free space or run compact"
        )


def _delete(
    storage: Storage, connection: Connection, row: CollectionRow, document_ids: Sequence[str]
) -> int:
    collection_id = row.collection_id
    deleted = documents.retire(connection, collection_id, document_ids)
    if deleted:
        sqlite_jobs.cancel_of_documents(connection, collection_id, document_ids, storage.clock())
        seq = collections.next_seq(connection, collection_id)
        memories.tombstone(connection, collection_id, document_ids, seq)
        documents.drop_texts(connection, collection_id, document_ids)
    return deleted
