"""Numbered, hashed, append-only migrations of the catalogue."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from memory_store.catalogue import row_sums
from memory_store.crashpoints import reach
from memory_store.errors import CorruptionError, IncompatibleFormatError

RECORD = """
CREATE TABLE IF NOT EXISTS migrations (
    number     INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    applied_at REAL NOT NULL
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped_migrations() -> list[Migration]:
    """Those this paramem carries, in order."""
    directory = resources.files("memory_store.catalogue") / "migrations"
    found = [
        Migration(int(file.name.partition("_")[0]), file.name, file.read_text("utf-8"))
        for file in directory.iterdir()
        if file.name.endswith(".sql")
    ]
    return sorted(found, key=lambda migration: migration.number)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Apply what is missing, in one transaction. Any number of processes may try at once.

    Raises:
        IncompatibleFormatError: a newer paramem wrote this catalogue.
        CorruptionError: an applied migration is not the one shipped.
    """
    row_sums.install(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(RECORD)
        applied = dict(connection.execute("SELECT number, sha256 FROM migrations"))
        _check(applied, migrations)
        for migration in migrations:
            if migration.number not in applied:
                for statement in _statements(migration.sql):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO migrations VALUES (?, ?, ?, ?)",
                    (migration.number, migration.name, migration.sha256, time.time()),
                )
        reach("k-before-migrated")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check(applied: dict[int, str], migrations: Sequence[Migration]) -> None:
    newest = migrations[-1].number
    if applied and max(applied) > newest:
        raise IncompatibleFormatError(
            f"this home was written by a newer paramem (catalogue {max(applied)}, this paramem "
            f"knows up to {newest}): upgrade paramem or use another home"
        )
    for migration in migrations:
        if applied.get(migration.number, migration.sha256) != migration.sha256:
            raise CorruptionError(
                f"the catalogue was made by another {migration.name} than the one shipped; "
                "restore a snapshot or use another home"
            )


def _statements(sql: str) -> Iterator[str]:
    """Split a script: ``executescript`` would commit the transaction we are in."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
