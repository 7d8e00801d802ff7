"""Every row of the catalogue against its checksum, every text against its document's.

A flipped bit is put back. Where that is not what happened, what can be made again is removed:
a memory (its document is written again), a job, an idempotency key, a text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from memory_store.audit.bit_flips import mend_body, mend_row
from memory_store.audit.finding import Finding
from memory_store.catalogue import row_sums
from memory_store.catalogue.database import Connection
from memory_store.catalogue.intake import write_again
from memory_store.records import Problem
from memory_store.storage import Storage

OTHERWISE = {
    "memories": "or remove it and write its document again",
    "jobs": "or forget the job",
    "idempotency_keys": "or forget the key",
}


@dataclass(frozen=True, slots=True)
class RowName:
    table: str
    rowid: int


def audit_rows(storage: Storage) -> list[Finding]:
    with storage.catalogue.read() as connection:
        damaged = list(damaged_rows(connection))
    return [
        Finding(
            Problem(
                "row_damaged",
                f"row {row.rowid} of {row.table} does not match its checksum",
                "put a flipped bit back, "
                + OTHERWISE.get(row.table, "or, if that is not it, restore a snapshot"),
            ),
            partial(_mend_row, storage, row),
        )
        for row in damaged
    ]


def audit_texts(storage: Storage) -> list[Finding]:
    with storage.catalogue.read() as connection:
        rows = connection.execute(
            "SELECT d.document_key, d.document_id, t.body IS NULL FROM documents d"
            " LEFT JOIN texts t USING (document_key) WHERE CASE WHEN t.body IS NULL"
            " THEN d.is_current = 1 AND d.keep_text = 1 ELSE body_sum(t.body) != d.text_sum END"
        ).fetchall()
    return [
        Finding(
            Problem(
                "text_damaged",
                f"the text of document {document_id!r} {'is gone' if gone else 'is damaged'}",
                "put a flipped bit back, or go on without it",
            ),
            partial(_mend_text, storage, document_key),
        )
        for document_key, document_id, gone in rows
    ]


def damaged_rows(connection: Connection) -> Iterator[RowName]:
    """Of one snapshot: the caller is in a transaction."""
    for table in row_sums.COLUMNS:
        sound = row_sums.is_sound(table, "t")
        try:
            (damaged,) = connection.execute(
                f"SELECT count(*) FROM {table} t NOT INDEXED WHERE NOT {sound}"
            ).fetchone()
        except sqlite3.OperationalError:
            damaged = 1  # text that is no UTF-8 never reaches the checksum
        if not damaged:
            continue
        for (rowid,) in connection.execute(f"SELECT rowid FROM {table} NOT INDEXED").fetchall():
            values, stored = _read(connection, RowName(table, rowid))
            if row_sums.row_sum(*values) != stored:
                yield RowName(table, rowid)


def _read(connection: Connection, row: RowName) -> tuple[list[Any], int]:
    """Its values, whatever is in them, and its checksum."""
    columns = ", ".join(
        f"CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) ELSE {column} END"
        for column in row_sums.COLUMNS[row.table]
    )
    *values, stored = connection.execute(
        f"SELECT {columns}, row_sum FROM {row.table} WHERE rowid = ?", (row.rowid,)
    ).fetchone()
    return [
        value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        for value in values
    ], stored


def _mend_row(storage: Storage, row: RowName) -> bool:
    columns = row_sums.COLUMNS[row.table]
    with storage.catalogue.write() as connection, row_sums.unguarded(connection):
        values, stored = _read(connection, row)
        mended = mend_row(values, stored)
        if mended is not None:
            changes = [
                (column, new)
                for column, new, old in zip(columns, mended, values, strict=True)
                if new != old
            ] or [("row_sum", row_sums.row_sum(*values))]
            for column, value in changes:
                connection.execute(
                    f"UPDATE {row.table} SET {column} = ? WHERE rowid = ?", (value, row.rowid)
                )
            return True
        if row.table not in OTHERWISE:
            return False
        owners = _owners(connection, row) if row.table == "memories" else []
        connection.execute(f"DELETE FROM {row.table} WHERE rowid = ?", (row.rowid,))
    return _write_again(storage, owners) if owners else True


def _owners(connection: Connection, memory: RowName) -> list[tuple[int, str]]:
    """(collection_id, document_id) of a damaged memory: by its row, and by what the index says."""
    return connection.execute(
        "SELECT collection_id, document_id FROM documents WHERE document_key IN"
        " (SELECT document_key FROM memories NOT INDEXED WHERE rowid = ?1 UNION"
        "  SELECT document_key FROM memories INDEXED BY memories_by_document WHERE rowid = ?1)",
        (memory.rowid,),
    ).fetchall()


def _write_again(storage: Storage, owners: list[tuple[int, str]]) -> bool:
    again = True
    with storage.catalogue.write() as connection:
        for collection_id, document_id in owners:
            # removed without a tombstone: indexes have to compare with what is live
            connection.execute(
                "UPDATE collections SET change_seq = change_seq + 1, purged_seq = change_seq + 1"
                " WHERE collection_id = ?",
                (collection_id,),
            )
            again &= write_again(storage, connection, collection_id, document_id, refine=True)
    return again


def _mend_text(storage: Storage, document_key: int) -> bool:
    with storage.catalogue.write() as connection:
        (text_sum,) = connection.execute(
            "SELECT text_sum FROM documents WHERE document_key = ?", (document_key,)
        ).fetchone()
        row = connection.execute(
            "SELECT body FROM texts WHERE document_key = ?", (document_key,)
        ).fetchone()
        mended = mend_body(row[0], text_sum) if row and text_sum is not None else None
        if mended is not None:
            connection.execute(
                "UPDATE texts SET body = ? WHERE document_key = ?", (mended, document_key)
            )
        else:
            connection.execute("DELETE FROM texts WHERE document_key = ?", (document_key,))
            connection.execute(
                "UPDATE documents SET keep_text = 0 WHERE document_key = ?", (document_key,)
            )
    return True
