"""A checksum in every row of the catalogue that is truth (SQLite's pages have none).

Triggers, made anew for every connection, write ``row_sum`` after each insert and update, and refuse
to change or delete a row that does not match it: a damaged row is neither signed again nor taken
for one that may go. Reading is checked where a statement says so (:func:`sound`).

Left out: ``texts``, whose sum stands in their document's row, because a trigger would write each
text twice; ``fields``, which are derived from ``documents.metadata``; ``workers`` and ``measures``,
which are observations and end or go on by themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import xxhash

from memory_store.errors import CorruptionError

COLUMNS: dict[str, tuple[str, ...]] = {
    "collections": (
        "collection_id",
        "name",
        "fingerprint",
        "slots",
        "z_dim",
        "code_format",
        "created_at",
        "deleted_at",
        "num_documents",
        "num_memories",
        "change_seq",
        "purged_seq",
    ),
    "documents": (
        "document_key",
        "collection_id",
        "document_id",
        "version",
        "title",
        "metadata",
        "keep_text",
        "num_chars",
        "is_current",
        "created_at",
        "text_sum",
    ),
    "shards": ("shard_id", "collection_id", "name", "num_rows", "num_bytes", "created_at"),
    "memories": (
        "memory_id",
        "collection_id",
        "document_key",
        "passage",
        "tier",
        "shard_id",
        "shard_row",
        "checksum",
        "num_bytes",
        "num_tokens",
        "text_start",
        "text_end",
        "stats",
        "created_at",
        "added_seq",
        "removed_seq",
    ),
    "jobs": (
        "job_id",
        "collection_id",
        "document_id",
        "version",
        "tier",
        "mode",
        "priority",
        "status",
        "progress",
        "attempts",
        "max_attempts",
        "error_code",
        "error_message",
        "result",
        "refine_job_id",
        "created_at",
        "started_at",
        "finished_at",
        "not_before",
        "lease_owner",
        "lease_expires_at",
    ),
    "idempotency_keys": ("key", "request_hash", "job_id", "created_at"),
}
MISMATCH = "a row of {} does not match its checksum"


def row_sum(*values: Any) -> int:
    """Of a row's columns, as SQLite keeps an integer."""
    # ascii(): types and bounds of the values are told apart, whatever the version of Unicode
    return _signed(xxhash.xxh3_64_digest(ascii(values).encode("ascii")))


def body_sum(body: bytes | None) -> int | None:
    """Of a compressed text; None if there is none."""
    return None if body is None else _signed(xxhash.xxh3_64_digest(body))


def sound(table: str, alias: str) -> str:
    """A SQL condition that is true, or ends the statement with a CorruptionError.

    SQLite tests a condition as soon as its tables' rows are there, but in no certain order: what
    could itself be damaged and leave the row out belongs behind it, ``CASE WHEN sound THEN … END``.
    Beside it, compare columns by ``IS ?``: of ``= ?`` SQLite puts the right side in the column's
    place in the whole condition, so that the sum would be of what was asked for.
    """
    return f"checked({alias}.row_sum, {_columns(table, alias)})"


def is_sound(table: str, alias: str) -> str:
    """A SQL condition: whether this row matches its checksum."""
    return f"({alias}.row_sum = row_sum({_columns(table, alias)}))"


def whole(tables: Sequence[str]) -> str:
    """What to select of joined tables, each named by its first letter, for :func:`checked`."""
    return ", ".join(f"{_columns(table, table[0])}, {table[0]}.row_sum" for table in tables)


Known = dict[tuple[str, Any], Mapping[str, Any]]
"""Columns of rows that were checked, by table and primary key."""


def checked(tables: Sequence[str], row: Sequence[Any], known: Known) -> Iterator[Mapping[str, Any]]:
    """One table's columns after the other, by name, of a row that begins as :func:`whole`.

    Instead of :func:`sound` where a busy server reads many rows: SQLite gives up the interpreter's
    lock in every step, and takes it for every function that it calls there.

    Args:
        known: of the same statement's rows before this one; what is new is added.

    Raises: CorruptionError, when it comes to columns that do not match their checksum.
    """
    start = 0
    for table in tables:
        end = start + len(COLUMNS[table])
        key = table, row[start]
        if key not in known:
            if row_sum(*row[start:end]) != row[end]:
                raise damaged(MISMATCH.format(table))
            known[key] = dict(zip(COLUMNS[table], row[start:end], strict=True))
        yield known[key]
        start = end + 1


def damaged(what: str) -> CorruptionError:
    return CorruptionError(
        f"the catalogue is damaged: {what}; run paramem doctor --repair, which names it"
    )


def install(connection: sqlite3.Connection) -> None:
    """Teach a connection the functions: migrations and reading need them."""
    for name, function in (("row_sum", row_sum), ("body_sum", body_sum), ("checked", _checked)):
        connection.create_function(name, -1, function, deterministic=True)


def guard(connection: sqlite3.Connection) -> None:
    """Make the triggers of this connection: writing needs them."""
    for table, columns in COLUMNS.items():
        refuse = (
            f"WHEN NOT {is_sound(table, 'OLD')}"
            f" BEGIN SELECT RAISE(ABORT, '{MISMATCH.format(table)}'); END"
        )
        sign = (
            f"BEGIN UPDATE {table} SET row_sum = row_sum({', '.join(columns)})"
            " WHERE rowid = NEW.rowid; END"
        )
        content = ", ".join(columns)  # not row_sum: signing must not be refused
        for name, event, action in (
            ("insert", "AFTER INSERT", sign),
            ("change", f"BEFORE UPDATE OF {content}", refuse),
            ("changed", f"AFTER UPDATE OF {content}", sign),
            ("delete", "BEFORE DELETE", refuse),
        ):
            connection.execute(
                f"CREATE TEMP TRIGGER {table}_{name} {event} ON main.{table} {action}"
            )


@contextmanager
def unguarded(connection: sqlite3.Connection) -> Iterator[None]:
    """Inside a write transaction: let damaged rows be mended; nothing is signed meanwhile."""
    for table in COLUMNS:
        for name in ("insert", "change", "changed", "delete"):
            connection.execute(f"DROP TRIGGER temp.{table}_{name}")
    yield  # after an error the transaction is undone, and this with it
    guard(connection)


def _columns(table: str, alias: str) -> str:
    return ", ".join(f"{alias}.{column}" for column in COLUMNS[table])


def _checked(stored: int, *values: Any) -> bool:
    if row_sum(*values) != stored:
        raise ValueError("SQLite hides this message; the catalogue has its own for it")
    return True


def _signed(digest: bytes) -> int:
    return int.from_bytes(digest, "big", signed=True)
