"""Rows of ``collections``. Every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memory_store.catalogue import row_sums
from memory_store.catalogue.cursors import clamp_limit, decode_cursor, page_of
from memory_store.catalogue.database import Connection, json_list, named
from memory_store.errors import ConflictError, NotFoundError
from memory_store.records import CodeFormat, Collection, MemorySpec, Page

COLUMNS = (
    "name, fingerprint, slots, z_dim, code_format, created_at, num_documents, num_memories,"
    " collection_id, change_seq, purged_seq"
)
# every row is tested before it is left out as deleted: the table is small
LIVE = f"CASE WHEN {row_sums.sound('collections', 'collections')} THEN deleted_at IS NULL END"


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """A live collection with what only the store needs of it."""

    collection: Collection
    collection_id: int
    change_seq: int
    purged_seq: int


def find(connection: Connection, name: str) -> CollectionRow:
    """Raises: NotFoundError."""
    row = (
        connection.execute(
            f"SELECT {COLUMNS} FROM collections WHERE name IS ? AND deleted_at IS NULL"
            f" AND {row_sums.sound('collections', 'collections')}",
            (name,),
        ).fetchone()
        or connection.execute(
            # not found: neither the index nor a damaged row may hide it
            f"SELECT {COLUMNS} FROM collections NOT INDEXED WHERE {LIVE} AND name IS ?",
            (name,),
        ).fetchone()
    )
    if row is None:
        raise NotFoundError(
            f"there is no collection {name!r}; create it with PUT /collections/{name}",
            param="collection",
        )
    return _from_row(row)


def by_id(connection: Connection, collection_id: int) -> CollectionRow | None:
    """None if it is deleted."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM collections WHERE collection_id IS ? AND {LIVE}",
        (collection_id,),
    ).fetchone()
    return _from_row(row) if row else None


def live(connection: Connection) -> list[CollectionRow]:
    """Every collection that is not deleted."""
    rows = connection.execute(f"SELECT {COLUMNS} FROM collections WHERE {LIVE}")
    return [_from_row(row) for row in rows]


def page(
    connection: Connection, cursor: str | None, limit: int, among: Sequence[str] | None
) -> Page[Collection]:
    """By name; ``among``: only these."""
    after = decode_cursor(cursor, 1)[0] if cursor else ""
    limit = clamp_limit(limit)
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM collections NOT INDEXED WHERE {LIVE} AND name > ?1"
        " AND (?2 IS NULL OR name IN (SELECT value FROM json_each(?2)))"
        " ORDER BY name LIMIT ?3",
        (after, json_list(among), limit + 1),
    )
    found = [_from_row(row).collection for row in rows]
    return page_of(found, limit, lambda collection: (collection.name,))


def put(connection: Connection, name: str, spec: MemorySpec, now: float) -> Collection:
    """Create it, or confirm that it has this spec.

    Raises:
        ConflictError: it exists with another spec; the message has both values.
    """
    try:
        existing = find(connection, name).collection
    except NotFoundError:
        connection.execute(
            "INSERT INTO collections (name, fingerprint, slots, z_dim, code_format, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (name, spec.fingerprint, spec.slots, spec.z_dim, str(spec.code_format), now),
        )
        return find(connection, name).collection
    if existing.spec != spec:
        raise ConflictError(
            f"collection {name!r} holds memories of {describe(existing.spec)}, not of "
            f"{describe(spec)}; use another name or delete it first"
        )
    return existing


def delete(connection: Connection, collection_id: int, now: float) -> None:
    """Free the name; the row stays until nothing refers to it."""
    connection.execute(
        "UPDATE collections SET deleted_at = ? WHERE collection_id = ?", (now, collection_id)
    )


def next_seq(connection: Connection, collection_id: int) -> int:
    """Count one more change of this collection's memories."""
    (seq,) = connection.execute(
        "UPDATE collections SET change_seq = change_seq + 1 WHERE collection_id = ?"
        " RETURNING change_seq",
        (collection_id,),
    ).fetchone()
    return int(seq)


def count(
    connection: Connection, collection_id: int, *, documents: int = 0, memories: int = 0
) -> None:
    """Move the counters."""
    connection.execute(
        "UPDATE collections SET num_documents = num_documents + ?,"
        " num_memories = num_memories + ? WHERE collection_id = ?",
        (documents, memories, collection_id),
    )


def describe(spec: MemorySpec) -> str:
    return (
        f"bundle {spec.fingerprint} ({spec.slots} slots of {spec.z_dim} numbers,"
        f" {spec.code_format})"
    )


def _from_row(row: tuple[Any, ...]) -> CollectionRow:
    name, fingerprint, slots, z_dim, code_format, created_at, documents, memories, *rest = row
    spec = MemorySpec(fingerprint, slots, z_dim, named(CodeFormat, code_format))
    return CollectionRow(Collection(name, spec, created_at, documents, memories), *rest)
