"""Giving space back: tombstoned rows leave the shards, small shards are merged.

A group of shards is copied into a new one (bytes and checksums unchanged), one transaction points
the memories there, then the old files go. Killed in between, one of the two sets is an orphan. A
reader that finds its shard gone looks the memory up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from memory_store.catalogue import collections, memories
from memory_store.catalogue.collections import CollectionRow
from memory_store.catalogue.database import Connection
from memory_store.catalogue.memories import Pointer
from memory_store.crashpoints import reach
from memory_store.errors import CorruptionError, IncompatibleFormatError
from memory_store.files import remove
from memory_store.records import CompactionReport, MemorySpec
from memory_store.shards.codec import HEADER_DTYPES, Tensor, layout
from memory_store.shards.shard import SealedShard, row_checksum
from memory_store.storage import Storage

SMALL_ROWS = 1024
TARGET_ROWS = 4096
JOB_RETENTION_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class ShardUse:
    shard_id: int
    num_rows: int
    live_rows: int

    def is_worth_it(self, min_dead_fraction: float) -> bool:
        dead = self.num_rows - self.live_rows
        return dead > 0 and dead >= min_dead_fraction * self.num_rows


def compact(
    storage: Storage, min_dead_fraction: float, progress: Callable[[float], None] | None
) -> CompactionReport:
    """See :meth:`memory_store.store.MemoryStore.compact`."""
    before = _size(storage)
    _purge_deleted_collections(storage)
    with storage.catalogue.read() as connection:
        work = [
            (row, group)
            for row in collections.live(connection)
            for group in _plan(connection, row.collection_id, min_dead_fraction)
        ]
    skipped = 0
    for done, (row, group) in enumerate(work):
        skipped += rewrite(storage, row, group)
        if progress is not None:
            progress((done + 1) / (len(work) + 1))
    _purge_rows(storage)
    reach("g-before-vacuum")
    storage.catalogue.vacuum()
    if progress is not None:
        progress(1.0)
    after = _size(storage)
    return CompactionReport(
        shards_before=before.num_shards,
        shards_after=after.num_shards,
        rows_dropped=before.num_rows - after.num_rows,
        bytes_freed=before.num_bytes - after.num_bytes,
        shards_skipped=skipped,
    )


def rewrite(storage: Storage, row: CollectionRow, shard_ids: Sequence[int]) -> int:
    """Replace these shards by one with their live rows only.

    Returns: how many were left as they are because a live row in them is damaged.
    """
    with storage.catalogue.read() as connection:
        found = {shard_id: live_rows(connection, shard_id) for shard_id in shard_ids}
    pointers: list[Pointer] = []
    raw: list[dict[str, bytes]] = []
    kept: list[int] = []
    for shard_id, live in found.items():
        rows = _read_verified(storage, live)
        if rows is not None:
            kept.append(shard_id)
            pointers += live
            raw += rows
    if kept:
        shard = None
        if pointers:
            spec = row.collection.spec
            shard = storage.shards.seal(row.collection_id, spec, _stack(spec, raw))
        reach("g-before-repoint")
        _repoint(storage, row.collection_id, kept, pointers, shard)
    return len(shard_ids) - len(kept)


def _plan(
    connection: Connection, collection_id: int, min_dead_fraction: float
) -> Iterator[list[int]]:
    """Groups of shards to rewrite together."""
    rows = connection.execute(
        "SELECT s.shard_id, s.num_rows, count(m.memory_id) FROM shards s LEFT JOIN memories m"
        " ON m.shard_id = s.shard_id AND m.removed_seq IS NULL WHERE s.collection_id = ?"
        " GROUP BY s.shard_id ORDER BY s.shard_id",
        (collection_id,),
    )
    group: list[ShardUse] = []
    for use in (ShardUse(*row) for row in rows.fetchall()):
        if not use.is_worth_it(min_dead_fraction) and use.num_rows >= SMALL_ROWS:
            continue
        if group and sum(one.live_rows for one in group) + use.live_rows > TARGET_ROWS:
            yield from _if_useful(group, min_dead_fraction)
            group = []
        group.append(use)
    yield from _if_useful(group, min_dead_fraction)


def _if_useful(group: list[ShardUse], min_dead_fraction: float) -> Iterator[list[int]]:
    if len(group) > 1 or any(use.is_worth_it(min_dead_fraction) for use in group):
        yield [use.shard_id for use in group]


def live_rows(connection: Connection, shard_id: int) -> list[Pointer]:
    rows = connection.execute(
        f"SELECT {memories.POINTER} WHERE m.shard_id IS ? AND m.removed_seq IS NULL"
        " ORDER BY m.shard_row",
        (shard_id,),
    )
    return [Pointer(*row) for row in rows]


def _read_verified(storage: Storage, live: Sequence[Pointer]) -> list[dict[str, bytes]] | None:
    """Rows of one shard; None if one of them is not what the catalogue recorded."""
    rows = []
    for pointer in live:
        if not pointer.is_sound:
            return None
        try:
            row = storage.shards.reader(pointer.shard).row(pointer.row)
        except (FileNotFoundError, CorruptionError, IncompatibleFormatError):
            storage.counters.checksum_failures += 1
            return None
        if row_checksum(row) != pointer.checksum:
            storage.counters.checksum_failures += 1
            return None
        rows.append(row)
    return rows


def _stack(spec: MemorySpec, rows: Sequence[dict[str, bytes]]) -> dict[str, Tensor]:
    slot_bytes = len(rows[0]["codes"]) // max(1, spec.slots)
    tensors = layout(spec.code_format, len(rows), spec.slots, spec.z_dim, slot_bytes=slot_bytes)
    return {
        name: np.frombuffer(b"".join(row[name] for row in rows), HEADER_DTYPES[dtype]).reshape(
            shape
        )
        for name, (dtype, shape) in tensors.items()
    }


def _repoint(
    storage: Storage,
    collection_id: int,
    shard_ids: Sequence[int],
    pointers: Sequence[Pointer],
    shard: SealedShard | None,
) -> None:
    marks = ",".join("?" * len(shard_ids))
    with storage.catalogue.write() as connection:
        old = connection.execute(
            f"SELECT name FROM shards WHERE shard_id IN ({marks})", shard_ids
        ).fetchall()
        if len(old) < len(shard_ids):
            # another process compacted them meanwhile; what was sealed here is an orphan
            outdated = [shard.name] if shard else []
        else:
            outdated = [name for (name,) in old]
            if shard is not None:
                storage.shards.confirm(shard)
                shard_id = memories.insert_shard(connection, collection_id, shard, storage.clock())
                connection.executemany(
                    "UPDATE memories SET shard_id = ?, shard_row = ? WHERE memory_id = ?",
                    [(shard_id, row, p.memory_id) for row, p in enumerate(pointers)],
                )
            _purge_tombstones(connection, collection_id, marks, shard_ids)
            connection.execute(f"DELETE FROM shards WHERE shard_id IN ({marks})", shard_ids)
    reach("g-after-repoint")
    storage.shards.unlink(outdated)
    reach("g-after-unlink")


def _purge_tombstones(
    connection: Connection, collection_id: int, marks: str, shard_ids: Sequence[int]
) -> None:
    """Forget the tombstones in these shards; an index that has not seen them must be told."""
    connection.execute(
        "UPDATE collections SET change_seq = change_seq + 1, purged_seq = max(purged_seq,"
        f" coalesce((SELECT max(removed_seq) FROM memories WHERE shard_id IN ({marks})), 0))"
        " WHERE collection_id = ?",
        (*shard_ids, collection_id),
    )
    connection.execute(
        f"DELETE FROM memories WHERE shard_id IN ({marks}) AND removed_seq IS NOT NULL", shard_ids
    )


def _purge_deleted_collections(storage: Storage) -> None:
    with storage.catalogue.write() as connection:
        rows = connection.execute(
            "SELECT collection_id FROM collections WHERE deleted_at IS NOT NULL"
        )
        deleted = [row[0] for row in rows.fetchall()]
        for collection_id in deleted:
            for table in ("memories", "shards", "documents"):
                connection.execute(f"DELETE FROM {table} WHERE collection_id = ?", (collection_id,))
    if deleted:
        reach("g-after-purge")
    for collection_id in deleted:
        storage.shards.remove_collection(collection_id)
        remove(storage.index_path(collection_id))


def _purge_rows(storage: Storage) -> None:
    """Forget versions nothing refers to, and the jobs and keys of long ago."""
    with storage.catalogue.write() as connection:
        unused = (
            "is_current = 0 AND NOT EXISTS"
            " (SELECT 1 FROM memories m WHERE m.document_key = documents.document_key)"
        )
        # the newest row of a deleted document stays, stripped: its version must not be given again
        connection.execute(
            f"DELETE FROM documents WHERE {unused} AND EXISTS (SELECT 1 FROM documents newer"
            " WHERE newer.collection_id = documents.collection_id"
            " AND newer.document_id = documents.document_id"
            " AND newer.version > documents.version)"
        )
        connection.execute(
            "DELETE FROM fields WHERE document_key IN"
            f" (SELECT document_key FROM documents WHERE {unused})"
        )
        connection.execute(f"UPDATE documents SET title = NULL, metadata = '{{}}' WHERE {unused}")
        connection.execute(
            "DELETE FROM jobs WHERE finished_at < ? AND NOT EXISTS (SELECT 1 FROM documents d"
            " WHERE d.collection_id = jobs.collection_id AND d.document_id = jobs.document_id"
            " AND d.version = jobs.version AND d.is_current = 1)",
            (storage.clock() - JOB_RETENTION_S,),
        )


@dataclass(frozen=True, slots=True)
class Size:
    num_shards: int
    num_rows: int
    num_bytes: int


def _size(storage: Storage) -> Size:
    with storage.catalogue.read() as connection:
        shards, rows, size = connection.execute(
            "SELECT count(*), coalesce(sum(num_rows), 0), coalesce(sum(num_bytes), 0) FROM shards"
        ).fetchone()
    return Size(shards, rows, size + storage.catalogue.num_bytes)
