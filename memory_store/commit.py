"""Storing what a worker made: one sealed shard, then one transaction.

Killed before the transaction, the shard is an orphan and the jobs run again; killed after it,
everything is there. There is no third state.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from memory_store.catalogue import collections, documents, measures, memories
from memory_store.catalogue.collections import CollectionRow
from memory_store.catalogue.database import Connection
from memory_store.crashpoints import reach
from memory_store.errors import (
    DiskFullError,
    FingerprintMismatchError,
    InvalidMemoryError,
    LeaseLostError,
)
from memory_store.jobs import sqlite_jobs
from memory_store.records import Job, MemorySpec, Tier, WriteMode, WrittenDocument
from memory_store.shards.codec import Tensor, encode, encode_keys
from memory_store.shards.shard import SealedShard
from memory_store.slot_quantiser import SlotQuantiser
from memory_store.storage import Storage


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document of the batch in the collection's format."""

    document: WrittenDocument
    tensors: dict[str, Tensor]  # (n, …); empty if it has no passages


def commit(
    storage: Storage, written: Sequence[WrittenDocument], spec: MemorySpec, worker_id: str
) -> list[Job]:
    """See :meth:`memory_store.store.MemoryStore.commit`."""
    with storage.catalogue.read() as connection:
        by_collection: dict[int, list[WrittenDocument]] = {}
        rows: dict[int, CollectionRow] = {}
        for document in written:
            row = _collection_of(connection, document.job.job_id, worker_id)
            if row is not None:
                rows[row.collection_id] = row
                by_collection.setdefault(row.collection_id, []).append(document)
    for row in rows.values():
        if row.collection.spec != spec:
            raise FingerprintMismatchError(
                f"collection {row.collection.name!r} holds memories of "
                f"{collections.describe(row.collection.spec)}, these are of "
                f"{collections.describe(spec)}; start the worker with the collection's bundle"
            )
    for collection_id, group in by_collection.items():
        _commit_group(storage, collection_id, group, spec, worker_id)
    with storage.catalogue.read() as connection:
        return [sqlite_jobs.find(connection, document.job.job_id) for document in written]


def _commit_group(
    storage: Storage,
    collection_id: int,
    group: Sequence[WrittenDocument],
    spec: MemorySpec,
    worker_id: str,
) -> None:
    batch = _encode(storage, group, spec, worker_id)
    filled = [encoded.tensors for encoded in batch if encoded.tensors]
    reach("c-before-shard")
    shard = None
    if filled:
        tensors = {name: np.concatenate([one[name] for one in filled]) for name in filled[0]}
        shard = storage.shards.seal(collection_id, spec, tensors)
    try:
        with storage.catalogue.write() as connection:
            in_use = _record(storage, connection, collection_id, batch, shard, worker_id)
            reach("e-before-commit")
    except DiskFullError:
        if shard is not None:
            storage.shards.unlink([shard.name])
        raise
    if shard is not None and not in_use:
        storage.shards.unlink([shard.name])
    reach("e-after-commit")


def _encode(
    storage: Storage, group: Sequence[WrittenDocument], spec: MemorySpec, worker_id: str
) -> list[Encoded]:
    """Encode the batch; a document that cannot be stored fails alone."""
    batch = []
    for document in group:
        try:
            tensors = _encode_document(document, spec, storage.quantisers.of(spec))
            batch.append(Encoded(document, tensors))
        except InvalidMemoryError as error:
            with suppress(LeaseLostError):
                storage.jobs.fail(
                    document.job.job_id,
                    worker_id,
                    code=error.code,
                    message=error.message,
                    retryable=False,
                )
    return batch


def _encode_document(
    document: WrittenDocument, spec: MemorySpec, quantiser: SlotQuantiser | None
) -> dict[str, Tensor]:
    for number, passage in enumerate(document.passages):
        shapes = (passage.codes.shape, passage.key.shape)
        if shapes != ((spec.slots, spec.z_dim), (spec.z_dim,)):
            raise InvalidMemoryError(
                f"passage {number} has codes and key of shape {shapes[0]} and {shapes[1]}, "
                f"the collection holds ({spec.slots}, {spec.z_dim}) and ({spec.z_dim},)"
            )
    if not document.passages:
        return {}
    codes = np.stack([passage.codes for passage in document.passages]).astype(np.float32)
    keys = np.stack([passage.key for passage in document.passages]).astype(np.float32)
    return {
        **encode(codes, spec.code_format, quantiser),
        "keys": encode_keys(keys, spec.code_format),
    }


def _record(
    storage: Storage,
    connection: Connection,
    collection_id: int,
    batch: Sequence[Encoded],
    shard: SealedShard | None,
    worker_id: str,
) -> bool:
    """Write the catalogue's side of a batch. Returns whether the shard came into use."""
    now = storage.clock()
    first_rows = accumulate((len(e.document.passages) for e in batch), initial=0)
    held = [
        (encoded.document, first_row)
        for encoded, first_row in zip(batch, first_rows, strict=False)
        if _collection_of(connection, encoded.document.job.job_id, worker_id) is not None
    ]
    if not held:
        return False
    shard_id = 0
    in_use = shard is not None and any(document.passages for document, _ in held)
    if shard is not None and in_use:
        storage.shards.confirm(shard)
        shard_id = memories.insert_shard(connection, collection_id, shard, now)
    seq = collections.next_seq(connection, collection_id)
    for document, first_row in held:
        job = document.job
        version = documents.version(connection, collection_id, job.document_id, job.version)
        assert version is not None, "a running job is about the current version"
        memories.tombstone(connection, collection_id, [job.document_id], seq)
        if shard is not None:
            memories.insert(
                connection,
                collection_id,
                version.document_key,
                job.tier,
                document.passages,
                shard_id=shard_id,
                shard=shard,
                first_row=first_row,
                seq=seq,
                now=now,
            )
        refines = bool(document.passages) and document.passages[0].codes.size > 0
        _finish_job(storage, connection, collection_id, document, now, refines=refines)
    seconds_per_job = _elapsed_s(held[0][0], now) / len(held)
    sqlite_jobs.measure(connection, seconds_per_job)
    if held[0][0].job.tier is Tier.FIT:  # a batch is of one tier
        fits = {
            measures.FIT_JOBS: len(held),
            measures.FIT_SECONDS: seconds_per_job * len(held),
            measures.FIT_STEPS: _sum_of(held, "steps"),
            measures.FIT_TOKEN_ACCURACY: _sum_of(held, "token_accuracy"),
        }
        measures.add(connection, fits)
    return in_use


def _finish_job(
    storage: Storage,
    connection: Connection,
    collection_id: int,
    document: WrittenDocument,
    now: float,
    *,
    refines: bool,
) -> None:
    job = document.job
    refine_job_id = None
    if job.mode is WriteMode.AUTO and job.tier is Tier.FAST and refines:
        refine_job_id = storage.jobs.insert(
            connection, collection_id, job.document_id, job.version, Tier.FIT, job.mode
        )
    sqlite_jobs.succeed(connection, job.job_id, document.result, refine_job_id, now)
    documents.drop_texts(connection, collection_id, [job.document_id])


def _collection_of(connection: Connection, job_id: str, worker_id: str) -> CollectionRow | None:
    """The collection of a job this worker may still finish."""
    row = connection.execute(
        "SELECT collection_id FROM jobs WHERE job_id = ? AND status = 'running'"
        " AND lease_owner = ?",
        (job_id, worker_id),
    ).fetchone()
    return collections.by_id(connection, row[0]) if row else None


def _elapsed_s(document: WrittenDocument, now: float) -> float:
    return max(0.0, now - (document.job.started_at or now))


def _sum_of(held: Sequence[tuple[WrittenDocument, int]], name: str) -> float:
    return sum(float(document.result.get(name, 0.0)) for document, _ in held)
