"""Counters of the whole store, for metrics. Counts rows: call it per scrape, not per request."""

from __future__ import annotations

from memory_store.records import StoreStats
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
    now = storage.clock()
    age_s = 0.0 if oldest_queued_at is None else max(0.0, now - oldest_queued_at)
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
    )
