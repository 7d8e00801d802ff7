"""SQLite's own check of the catalogue: pages, indexes, references."""

from __future__ import annotations

import sqlite3
from functools import partial

from memory_store.audit.finding import Finding
from memory_store.catalogue.database import Connection
from memory_store.errors import CorruptionError
from memory_store.records import Problem
from memory_store.storage import Storage

REPAIR = "restore a snapshot"
OF_INDEX = ("missing from index", "entries in index", "non-unique entry in index")
"""What the check says of an index whose table is whole: it is derived, and made again."""


def audit_pages(storage: Storage) -> list[Finding]:
    try:
        with storage.catalogue.read() as connection:
            said = _check(connection)
            dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
    except CorruptionError as error:
        said, dangling = [error.message.removesuffix(f"; {REPAIR}")], []
    if said and all(any(words in what for words in OF_INDEX) for what in said):
        what = f"{len(said)} entries of indexes contradict their tables, first: {said[0]}"
        return [
            Finding(
                Problem("catalogue_index_damaged", what, "make the indexes again"),
                partial(_make_indexes, storage),
            )
        ]
    said += [
        f"row {row[1]} of {row[0]} refers to a missing row of {row[2]}"
        for row in dangling
        if row[0] != "fields"  # which are derived, see field_audit
    ]
    return [Finding(Problem("catalogue_damaged", what, REPAIR)) for what in said]


def _make_indexes(storage: Storage) -> bool:
    try:
        with storage.catalogue.write() as connection:
            connection.execute("REINDEX")
            return not _check(connection)
    except (sqlite3.IntegrityError, CorruptionError):
        return False  # rows that should be unique are not: the tables are damaged, too


def _check(connection: Connection) -> list[str]:
    """What is wrong; empty: nothing."""
    found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    return [] if found == ["ok"] else found
