"""Rows of ``memories`` and ``shards``. Works inside the caller's transaction.

``added_seq`` and ``removed_seq`` are values of the collection's change counter: the live memories
at any counter value can be told, so an index can catch up, and a saved one be verified.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memory_store.catalogue import collections, filters, row_sums
from memory_store.catalogue.database import Connection, named
from memory_store.errors import CorruptionError
from memory_store.records import Hit, Memory, PassageMemory, Tier
from memory_store.shards.shard import SealedShard

TABLES = ("memories", "documents", "collections", "shards")
MEMORY = f"{row_sums.whole(TABLES)} FROM memories m"
JOINED = (
    "JOIN documents d ON d.document_key = m.document_key"
    " JOIN collections c ON c.collection_id = m.collection_id"
    " JOIN shards s ON s.shard_id = m.shard_id"
)
# for rows that are checked afterwards: a damaged one, which names no document, is not left out
OUTER_JOINED = JOINED.replace("JOIN", "LEFT JOIN")
POINTER = (
    "m.memory_id, coalesce(s.name, ''), m.shard_row, m.checksum,"
    f" {row_sums.is_sound('memories', 'm')} AND coalesce({row_sums.is_sound('shards', 's')}, 0)"
    " FROM memories m LEFT JOIN shards s USING (shard_id)"
)
SOUND = " AND ".join(row_sums.sound(table, table[0]) for table in TABLES)
LIVE = f"CASE WHEN {row_sums.sound('memories', 'm')} THEN m.removed_seq IS NULL END"

Row = Sequence[Any]
Columns = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where the bytes of a memory are; not ``is_sound``: where a damaged row says they are."""

    memory_id: int
    shard: str
    row: int
    checksum: str
    is_sound: bool


def insert_shard(connection: Connection, collection_id: int, shard: SealedShard, now: float) -> int:
    """Returns: shard_id."""
    shard_id = connection.execute(
        "INSERT INTO shards (collection_id, name, num_rows, num_bytes, created_at)"
        " VALUES (?, ?, ?, ?, ?)",
        (collection_id, shard.name, shard.num_rows, shard.num_bytes, now),
    ).lastrowid
    assert shard_id is not None
    return shard_id


def insert(
    connection: Connection,
    collection_id: int,
    document_key: int,
    tier: Tier,
    passages: Sequence[PassageMemory],
    *,
    shard_id: int,
    shard: SealedShard,
    first_row: int,
    seq: int,
    now: float,
) -> None:
    """Add a document's memories.

    Args:
        first_row: the passages lie in consecutive rows of the shard from here.
    """
    connection.executemany(
        "INSERT INTO memories (collection_id, document_key, passage, tier, shard_id, shard_row,"
        " checksum, num_bytes, num_tokens, text_start, text_end, stats, created_at, added_seq)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                collection_id,
                document_key,
                number,
                str(tier),
                shard_id,
                first_row + number,
                shard.checksums[first_row + number],
                shard.row_bytes,
                passage.num_tokens,
                passage.text_start,
                passage.text_end,
                json.dumps(dict(passage.stats)),
                now,
                seq,
            )
            for number, passage in enumerate(passages)
        ],
    )
    collections.count(connection, collection_id, memories=len(passages))


def tombstone(
    connection: Connection, collection_id: int, document_ids: Sequence[str], seq: int
) -> int:
    """Remove every live memory, of any version, of these documents. Returns how many."""
    removed = connection.execute(
        "UPDATE memories SET removed_seq = ? WHERE removed_seq IS NULL AND document_key IN"
        " (SELECT document_key FROM documents WHERE collection_id = ?"
        "  AND document_id IN (SELECT value FROM json_each(?)))",
        (seq, collection_id, json.dumps(document_ids)),
    ).rowcount
    collections.count(connection, collection_id, memories=-removed)
    return removed


def tombstone_ids(
    connection: Connection, collection_id: int, memory_ids: Sequence[int], seq: int
) -> None:
    removed = connection.execute(
        "UPDATE memories SET removed_seq = ? WHERE removed_seq IS NULL AND collection_id = ?"
        " AND memory_id IN (SELECT value FROM json_each(?))",
        (seq, collection_id, json.dumps(memory_ids)),
    ).rowcount
    collections.count(connection, collection_id, memories=-removed)


def hits(connection: Connection, scores: Mapping[int, float]) -> list[Hit]:
    """The live ones of these memories, best first, in one query."""
    rows = connection.execute(
        f"SELECT {MEMORY} {OUTER_JOINED} WHERE m.memory_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(scores)),),
    ).fetchall()
    found = [
        Hit(memory, scores[memory.memory_id], document["title"], json.loads(document["metadata"]))
        for _, memory, document in _live(rows)
    ]
    return sorted(found, key=lambda hit: (-hit.score, hit.memory.memory_id))


def of_documents(connection: Connection, document_keys: Sequence[int]) -> dict[int, list[Memory]]:
    """Live memories of these versions' documents, whichever version made them, by passage."""
    rows = connection.execute(
        f"SELECT {row_sums.whole(TABLES)}, wanted.document_key FROM documents wanted"
        " JOIN documents other ON other.collection_id = wanted.collection_id"
        "  AND other.document_id = wanted.document_id"
        f" JOIN memories m ON m.document_key = other.document_key {OUTER_JOINED}"
        " WHERE wanted.document_key IN (SELECT value FROM json_each(?)) ORDER BY m.passage",
        (json.dumps(document_keys),),
    ).fetchall()
    found: dict[int, list[Memory]] = defaultdict(list)
    for row, memory, _ in _live(rows):
        found[row[-1]].append(memory)
    return found


def relocated(connection: Connection, memory: Memory) -> Memory | None:
    """Where a memory is now; if it was replaced meanwhile, its successor; None if it is gone."""
    rows = connection.execute(
        f"SELECT {MEMORY} {JOINED} WHERE {SOUND} AND m.memory_id IS ?", (memory.memory_id,)
    ).fetchall()
    if not rows:
        rows = connection.execute(
            f"SELECT {MEMORY} {JOINED} WHERE {LIVE} AND {SOUND} AND c.deleted_at IS NULL"
            " AND c.name IS ? AND d.document_id IS ? AND m.passage IS ?",
            (memory.collection, memory.document_id, memory.passage),
        ).fetchall()
    return _memory(*row_sums.checked(TABLES, rows[0], {})) if rows else None


def matching(connection: Connection, collection_id: int, wanted: Mapping[str, Any]) -> list[int]:
    """Ids of the live memories of the documents a filter selects.

    Raises:
        InvalidFilterError
    """
    condition, parameters = filters.compile_filters(wanted, collection_id)
    rows = connection.execute(
        "SELECT m.memory_id FROM documents d JOIN memories m USING (document_key)"
        f" WHERE d.collection_id = ? AND m.removed_seq IS NULL AND {condition}",
        (collection_id, *parameters),
    )
    return [row[0] for row in rows]


def documents_of(connection: Connection, memory_ids: Sequence[int]) -> dict[str, Tier]:
    """Documents of these memories, with the best tier among them."""
    rows = connection.execute(
        "SELECT d.document_id, min(m.tier = 'fast') FROM memories m"
        " JOIN documents d USING (document_key)"
        " WHERE m.memory_id IN (SELECT value FROM json_each(?)) GROUP BY d.document_id",
        (json.dumps(memory_ids),),
    )
    return {document_id: Tier.FAST if fast else Tier.FIT for document_id, fast in rows}


def added_since(connection: Connection, collection_id: int, seq: int) -> list[Pointer]:
    """Live memories that an index at ``seq`` does not hold; from 0, all of them."""
    rows = connection.execute(
        f"SELECT {POINTER} WHERE m.collection_id IS ? AND m.added_seq > ?"
        f" AND (m.removed_seq IS NULL OR NOT {row_sums.is_sound('memories', 'm')})"
        " ORDER BY m.shard_id, m.shard_row",
        (collection_id, seq),
    )
    found = [Pointer(*row) for row in rows]
    if len({pointer.memory_id for pointer in found}) < len(found):
        raise CorruptionError(
            "an index of the catalogue names a memory twice; run paramem doctor --repair"
        )
    return found


def removed_since(connection: Connection, collection_id: int, seq: int) -> list[int]:
    rows = connection.execute(
        "SELECT memory_id FROM memories WHERE collection_id = ? AND removed_seq > ?"
        " AND added_seq <= ?",
        (collection_id, seq, seq),
    )
    return [row[0] for row in rows]


def live_at(connection: Connection, collection_id: int, seq: int) -> list[tuple[int, str]]:
    """(memory_id, checksum) of what was live when the change counter stood at ``seq``, by id."""
    return connection.execute(
        "SELECT memory_id, checksum FROM memories WHERE collection_id = ? AND added_seq <= ?"
        " AND (removed_seq IS NULL OR removed_seq > ?) ORDER BY memory_id",
        (collection_id, seq, seq),
    ).fetchall()


def _live(rows: Sequence[Row]) -> Iterator[tuple[Row, Memory, Columns]]:
    """Of rows that begin with ``whole(TABLES)``, those of live memories; with their documents."""
    known: row_sums.Known = {}
    for row in rows:
        parts = row_sums.checked(TABLES, row, known)
        memory = next(parts)
        if memory["removed_seq"] is None:  # else its document may be gone with it
            document, collection, shard = parts
            yield row, _memory(memory, document, collection, shard), document


def _memory(memory: Columns, document: Columns, collection: Columns, shard: Columns) -> Memory:
    return Memory(
        memory_id=memory["memory_id"],
        collection=collection["name"],
        document_id=document["document_id"],
        version=document["version"],
        passage=memory["passage"],
        tier=named(Tier, memory["tier"]),
        fingerprint=collection["fingerprint"],
        shard=shard["name"],
        row=memory["shard_row"],
        checksum=memory["checksum"],
        num_bytes=memory["num_bytes"],
        num_tokens=memory["num_tokens"],
        text_start=memory["text_start"],
        text_end=memory["text_end"],
        stats=json.loads(memory["stats"]),
        created_at=memory["created_at"],
    )
