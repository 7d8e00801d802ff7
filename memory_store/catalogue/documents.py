"""Rows of ``documents``, ``fields`` and ``texts``. Works inside the caller's transaction.

A document is a chain of versions. At most one is current; an older one keeps its row and its text
while its memories are still the ones that answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import zstandard

from memory_store.catalogue import collections, filters, memories, row_sums
from memory_store.catalogue.cursors import clamp_limit, decode_cursor, page_of
from memory_store.catalogue.database import Connection, json_list
from memory_store.errors import CorruptionError, NotFoundError
from memory_store.records import Document, DocumentSource, Job, Page, WriteRequest

ZSTD_LEVEL = 3
# a job in one of these states still needs the text, or may be retried and then needs it
NEEDS_TEXT = "('queued', 'running', 'failed', 'dead')"
SOUND = row_sums.sound("documents", "d")
CURRENT = (
    "SELECT d.document_key, c.name, d.document_id, d.version, d.title, d.metadata, d.num_chars,"
    " d.created_at, d.keep_text"
    " FROM documents d JOIN collections c USING (collection_id)"
    f" WHERE CASE WHEN {SOUND} THEN d.is_current = 1 END"
    f" AND c.deleted_at IS NULL AND {row_sums.sound('collections', 'c')}"
)


@dataclass(frozen=True, slots=True)
class Version:
    document_key: int
    version: int
    title: str | None
    keep_text: bool
    is_current: bool


def compress(text: str) -> bytes:
    """With a checksum in the frame: without one a flipped bit is another text."""
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    return compressor.compress(text.encode("utf-8"))


def decompress(body: bytes, body_sum: int) -> str:
    """Raises: CorruptionError: the bytes are not those that were written."""
    try:
        if row_sums.body_sum(body) != body_sum:
            raise ValueError("it does not match its checksum")
        return zstandard.ZstdDecompressor().decompress(body).decode("utf-8")
    except (zstandard.ZstdError, ValueError, MemoryError, TypeError) as error:
        raise CorruptionError(
            f"the text of a document is damaged ({error}); write the document again"
        ) from error


def insert_version(
    connection: Connection,
    collection_id: int,
    document_id: str,
    request: WriteRequest,
    body: bytes,
    now: float,
) -> int:
    """Add the next version and make it current. Returns its number."""
    (last,) = connection.execute(
        "SELECT coalesce(max(version), 0) FROM documents WHERE collection_id = ?"
        " AND document_id = ?",
        (collection_id, document_id),
    ).fetchone()
    retire(connection, collection_id, [document_id])
    key = connection.execute(
        "INSERT INTO documents (collection_id, document_id, version, title, metadata, keep_text,"
        " num_chars, is_current, created_at, text_sum) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?)",
        (
            collection_id,
            document_id,
            last + 1,
            request.title,
            json.dumps(request.metadata),
            request.keep_text,
            len(request.text),
            now,
            row_sums.body_sum(body),
        ),
    ).lastrowid
    assert key is not None
    insert_fields(connection, collection_id, key, request.metadata)
    connection.execute("INSERT INTO texts (document_key, body) VALUES (?, ?)", (key, body))
    collections.count(connection, collection_id, documents=1)
    return int(last) + 1


def insert_fields(
    connection: Connection, collection_id: int, document_key: int, metadata: Mapping[str, Any]
) -> None:
    """Make a version findable by its metadata."""
    connection.executemany(
        "INSERT INTO fields (collection_id, key, kind, value, document_key) VALUES (?, ?, ?, ?, ?)",
        [
            (collection_id, name, kind, value, document_key)
            for name, kind, value in filters.searchable_fields(metadata)
        ],
    )


def retire(connection: Connection, collection_id: int, document_ids: Sequence[str]) -> int:
    """The current versions of these documents are current no more. Returns how many there were."""
    retired = connection.execute(
        "UPDATE documents SET is_current = 0 WHERE collection_id = ? AND is_current = 1"
        " AND document_id IN (SELECT value FROM json_each(?))",
        (collection_id, json.dumps(document_ids)),
    ).rowcount
    collections.count(connection, collection_id, documents=-retired)
    return retired


def version(
    connection: Connection, collection_id: int, document_id: str, number: int
) -> Version | None:
    row = connection.execute(
        "SELECT document_key, version, title, keep_text, is_current FROM documents d"
        f" WHERE collection_id IS ? AND document_id IS ? AND version IS ? AND {SOUND}",
        (collection_id, document_id, number),
    ).fetchone()
    return Version(row[0], row[1], row[2], bool(row[3]), bool(row[4])) if row else None


def drop_texts(connection: Connection, collection_id: int, document_ids: Sequence[str]) -> None:
    """Delete the texts of these documents that nothing needs any more.

    Needed: by the current version, if the client wants it kept or a job wants it; by an older
    version, while its memories answer and the client wants it kept.
    """
    connection.execute(
        "DELETE FROM texts WHERE document_key IN (SELECT d.document_key FROM documents d"
        " WHERE d.collection_id IS ? AND d.document_id IN (SELECT value FROM json_each(?))"
        f" AND {SOUND} AND NOT CASE WHEN d.is_current THEN d.keep_text OR EXISTS"
        "  (SELECT 1 FROM jobs j WHERE j.collection_id = d.collection_id"
        "   AND j.document_id = d.document_id AND j.version = d.version"
        f"  AND j.status IN {NEEDS_TEXT})"
        " ELSE d.keep_text AND EXISTS (SELECT 1 FROM memories m"
        "   WHERE m.document_key = d.document_key AND m.removed_seq IS NULL) END)",
        (collection_id, json.dumps(document_ids)),
    )


def matching(connection: Connection, collection_id: int, wanted: Mapping[str, Any]) -> list[str]:
    """Ids of the current documents a filter selects.

    Raises:
        InvalidFilterError
    """
    condition, parameters = filters.compile_filters(wanted, collection_id)
    rows = connection.execute(
        f"SELECT d.document_id FROM documents d WHERE d.collection_id = ? AND d.is_current = 1"
        f" AND {condition}",
        (collection_id, *parameters),
    )
    return [row[0] for row in rows]


def get(connection: Connection, collection: str, document_id: str) -> Document:
    """Raises: NotFoundError."""
    return _with_memories(connection, [_row_of(connection, collection, document_id)])[0]


def page(
    connection: Connection,
    collection: str | None,
    cursor: str | None,
    limit: int,
    among: Sequence[str] | None,
) -> Page[Document]:
    """By collection and id: stable while documents are replaced.

    Raises:
        InvalidCursorError; NotFoundError: no such collection.
    """
    if collection is not None:
        collections.find(connection, collection)
    after = decode_cursor(cursor, 2) if cursor else ["", ""]
    limit = clamp_limit(limit)
    rows = connection.execute(
        f"{CURRENT} AND (c.name, d.document_id) > (?1, ?2) AND (?3 IS NULL OR c.name IS ?3)"
        " AND (?4 IS NULL OR c.name IN (SELECT value FROM json_each(?4)))"
        " ORDER BY c.name, d.document_id LIMIT ?5",
        (*after, collection, json_list(among), limit + 1),
    ).fetchall()
    found = _with_memories(connection, rows)
    return page_of(found, limit, lambda document: (document.collection, document.document_id))


def text(connection: Connection, document_key: int) -> str | None:
    row = connection.execute(
        "SELECT t.body, d.text_sum FROM texts t JOIN documents d USING (document_key)"
        f" WHERE d.document_key IS ? AND {SOUND}",
        (document_key,),
    ).fetchone()
    return decompress(*row) if row else None


def source(connection: Connection, job: Job) -> DocumentSource:
    """What a job works on. Raises: NotFoundError: its version was deleted or replaced."""
    row = collections.find(connection, job.collection)
    found = version(connection, row.collection_id, job.document_id, job.version)
    body = text(connection, found.document_key) if found and found.is_current else None
    if found is None or body is None:
        raise NotFoundError(
            f"version {job.version} of document {job.document_id!r} is gone: it was replaced, "
            "deleted, or its text was not kept",
            param="document_id",
        )
    return DocumentSource(job.document_id, body, found.title)


def kept_text(connection: Connection, collection: str, document_id: str) -> str | None:
    """Of the current version, if the client wants it kept. Raises: NotFoundError."""
    (key, *_, keep_text) = _row_of(connection, collection, document_id)
    if not keep_text:
        return None
    kept = text(connection, key)
    if kept is None:
        raise CorruptionError(
            f"the text of document {document_id!r} is gone; write the document again"
        )
    return kept


def text_of_memory(connection: Connection, memory_id: int) -> str | None:
    """The whole text of the version a memory was made from, if the client wants it kept."""
    row = connection.execute(
        "SELECT d.document_key, d.keep_text FROM memories m JOIN documents d USING (document_key)"
        f" WHERE m.memory_id IS ? AND {row_sums.sound('memories', 'm')} AND {SOUND}",
        (memory_id,),
    ).fetchone()
    return text(connection, row[0]) if row and row[1] else None


def passages_added_since(
    connection: Connection, collection_id: int, seq: int
) -> list[tuple[int, str]]:
    """(memory_id, passage) of live memories added after ``seq`` whose text is kept; from 0, all."""
    rows = connection.execute(
        "SELECT m.memory_id, m.document_key, m.text_start, m.text_end FROM memories m"
        " JOIN documents d USING (document_key) WHERE m.collection_id IS ? AND m.added_seq > ?"
        f" AND {memories.LIVE} AND CASE WHEN {SOUND} THEN d.keep_text = 1 END"
        " ORDER BY m.document_key",
        (collection_id, seq),
    )
    passages = []
    for document_key, group in groupby(rows, key=itemgetter(1)):
        whole = text(connection, document_key) or ""
        passages += [(memory_id, whole[start:end]) for memory_id, _, start, end in group]
    return passages


def _row_of(connection: Connection, collection: str, document_id: str) -> tuple[Any, ...]:
    """Of :data:`CURRENT`. Raises: NotFoundError."""
    row: tuple[Any, ...] | None = connection.execute(
        f"{CURRENT} AND c.name IS ? AND d.document_id IS ?", (collection, document_id)
    ).fetchone()
    if row is None:
        collections.find(connection, collection)
        raise NotFoundError(
            f"there is no document {document_id!r} in collection {collection!r}",
            param="document_id",
        )
    return row


def _with_memories(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[Document]:
    by_key = memories.of_documents(connection, [row[0] for row in rows])
    return [
        Document(
            collection=name,
            document_id=document_id,
            version=number,
            title=title,
            metadata=json.loads(metadata),
            has_text=bool(keep_text),
            num_chars=num_chars,
            created_at=created_at,
            memories=by_key.get(key, ()),
        )
        for (
            key,
            name,
            document_id,
            number,
            title,
            metadata,
            num_chars,
            created_at,
            keep_text,
        ) in rows
    ]
