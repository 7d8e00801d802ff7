"""Counters of the whole store, for metrics. Counts rows: call it per scrape, not per request."""

from __future__ import annotations

import time
from collections.abc import Sequence

from memory_store.audit.routine import last_audit
from memory_store.catalogue import measures
from memory_store.catalogue.database import json_list
from memory_store.records import JobStatus, StoredAmount, StoreStats
from memory_store.snapshots.snapshots import last_snapshot_at
from memory_store.storage import Storage

COUNTS = """
SELECT
    (SELECT coalesce(sum(num_documents), 0) FROM collections WHERE deleted_at IS NULL),
    (SELECT coalesce(sum(num_memories), 0) FROM collections WHERE deleted_at IS NULL),
    (SELECT count(*) FROM jobs WHERE status = 'queued'),
    (SELECT count(*) FROM jobs WHERE status = 'running'),
    (SELECT count(*) FROM jobs WHERE status = 'dead'),
    (SELECT min(created_at) FROM jobs WHERE status = 'queued'),
    (SELECT coalesce(sum(num_bytes), 0) FROM shards),
    (SELECT coalesce(sum(num_rows), 0) FROM shards),
    (SELECT coalesce(sum(length(body)), 0) FROM texts)
"""
FINAL = [status for status in JobStatus if status.is_final]

AMOUNT = """
WITH chosen AS (
    SELECT collection_id, num_documents FROM collections WHERE deleted_at IS NULL
    AND (:names IS NULL OR name IN (SELECT value FROM json_each(:names)))
)
SELECT
    (SELECT coalesce(sum(num_documents), 0) FROM chosen),
    (SELECT coalesce(sum(num_bytes), 0) FROM memories JOIN chosen USING (collection_id)
        WHERE removed_seq IS NULL)
    + (SELECT coalesce(sum(length(body)), 0) FROM texts
        JOIN documents USING (document_key) JOIN chosen USING (collection_id))
"""


def measure_amount(storage: Storage, names: Sequence[str] | None) -> StoredAmount:
    """What the collections of these names hold; None: all of them."""
    with storage.catalogue.read() as connection:
        documents, num_bytes = connection.execute(AMOUNT, {"names": json_list(names)}).fetchone()
    return StoredAmount(documents, num_bytes)


def measure_store(storage: Storage) -> StoreStats:
    with storage.catalogue.read() as connection:
        (
            documents,
            memories,
            queued,
            running,
            dead,
            oldest_queued_at,
            shard_bytes,
            shard_rows,
            text_bytes,
        ) = connection.execute(COUNTS).fetchone()
        totals = measures.read(connection)
    now = storage.clock()
    age_s = 0.0 if oldest_queued_at is None else max(0.0, now - oldest_queued_at)
    audit = last_audit(storage.home)
    saved = list((storage.home / "index").glob("*.faiss"))
    return StoreStats(
        documents=documents,
        memories=memories,
        queued=queued,
        running=running,
        dead=dead,
        oldest_queued_age_s=age_s,
        shard_bytes=shard_bytes,
        text_bytes=text_bytes,
        catalogue_bytes=storage.catalogue.num_bytes,
        index_bytes=sum(path.stat().st_size for path in saved),
        live_rows=memories,
        dead_rows=shard_rows - memories,
        checksum_failures=storage.counters.checksum_failures,
        index_rebuilds=storage.counters.index_rebuilds,
        shard_opens=storage.shards.opens,
        shard_cache_hits=storage.shards.cache_hits,
        jobs_ended={status: int(totals.get(measures.ended(status), 0)) for status in FINAL},
        fit_jobs=int(totals.get(measures.FIT_JOBS, 0)),
        fit_seconds=totals.get(measures.FIT_SECONDS, 0.0),
        fit_steps=totals.get(measures.FIT_STEPS, 0.0),
        fit_token_accuracy=totals.get(measures.FIT_TOKEN_ACCURACY, 0.0),
        last_snapshot_age_s=_snapshot_age_s(storage),
        last_audit_age_s=now - audit.at,
        audit_problems=audit.problems,
    )


def _snapshot_age_s(storage: Storage) -> float:
    last = last_snapshot_at(storage.home)
    # wall clock: it is the age of a file
    return float("inf") if last is None else max(0.0, time.time() - last)
