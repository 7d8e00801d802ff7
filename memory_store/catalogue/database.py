"""The SQLite catalogue: connections, transactions, durability.

WAL with ``synchronous=FULL``: a commit that returned survives a power cut. Every thread has its
own connection. Write transactions are ``BEGIN IMMEDIATE`` and queue up on a lock inside this
process before they compete with other processes, because SQLite's own waiting is a sleep.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from memory_store.catalogue import row_sums
from memory_store.catalogue.commit_mark import CommitMark
from memory_store.catalogue.migrate import migrate, shipped_migrations
from memory_store.catalogue.write_ahead_log import check_log
from memory_store.errors import CorruptionError, DiskFailedError, DiskFullError, StoreError
from memory_store.files import DISK_FAILED, DISK_FULL, sync_file

BUSY_TIMEOUT_S = 30.0
# SQLITE_ERROR: the statements are ours, so it is the schema that is not
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
NOT_TEXT = "Could not decode to UTF-8"  # what Python says, without a code
NOT_SOUND = "user-defined function raised exception"  # row_sums.sound, or text that is none
FAILED = (
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
)
Connection = sqlite3.Connection


Name = TypeVar("Name", bound=StrEnum)


def named(kind: type[Name], value: str) -> Name:
    """A stored name. Raises: CorruptionError: there is none like it."""
    try:
        return kind(value)
    except ValueError:
        raise CorruptionError(
            f"the catalogue is damaged: it holds {value!r} where a {kind.__name__} belongs; "
            "restore a snapshot"
        ) from None


def json_list(names: Sequence[str] | None) -> str | None:
    """A parameter for ``json_each``; None, which a statement takes for no restriction, stays."""
    return None if names is None else json.dumps(list(names))


class Catalogue:
    """Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._local = threading.local()
        self._connections: dict[threading.Thread, Connection] = {}
        self._closed = False
        self._migrated = False
        self._log = path.with_name(f"{path.name}-wal")
        check_log(self._log)
        self._mark = CommitMark(self._log)
        try:
            with self._translated():
                migrate(self.connection(), shipped_migrations())
                # only now: an old catalogue lacks the columns that the triggers are about
                row_sums.guard(self.connection())
                self._migrated = True
        except BaseException:
            self.close()
            raise

    def connection(self) -> Connection:
        """This thread's connection, in autocommit: right for a single SELECT."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is not None and self._closed:
            connection.close()
            connection = None
        return connection or self._connect()

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """One SELECT, which is a snapshot of its own: a third of the statements of :meth:`read`.

        Raises:
            DiskFailedError, CorruptionError
        """
        with self._translated():
            yield self.connection()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Several SELECTs on one snapshot.

        Raises:
            DiskFailedError, CorruptionError
        """
        with self.look() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A write transaction: durable once the block ends, undone if it raises.

        Raises:
            DiskFullError, DiskFailedError, CorruptionError
        """
        with self._translated():
            connection = self.connection()
            with self._writing:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    self._mark.begin()
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    self._roll_back(connection)
                    raise
                self._mark.commit()

    def copy_to(self, target: Path) -> None:
        """Write a copy as of one point in time, in one read transaction: writers go on.

        Raises:
            DiskFullError, DiskFailedError, CorruptionError
        """
        with self._translated():
            self.connection().execute("VACUUM INTO ?", (str(target),))
        sync_file(target)

    def vacuum(self) -> None:
        """Rewrite the file without the bytes of deleted rows."""
        with self._translated(), self._writing:
            connection = self.connection()
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in (self.path, self._log) if file.exists())

    def close(self) -> None:
        """Refuse further calls. A thread that is inside a call finishes it.

        SQLite crashes the process when a connection is closed under a running statement, so each
        connection of another living thread is left for that thread (or its end) to close.
        """
        with self._lock:
            self._closed = True
            for thread, connection in self._connections.items():
                if thread is threading.current_thread() or not thread.is_alive():
                    connection.close()
            self._connections.clear()

    def _connect(self) -> Connection:
        with self._lock:
            if self._closed:
                raise StoreError("the store is closed")
            connection = sqlite3.connect(
                self.path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,  # those of ended threads are closed by others
                cached_statements=256,
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
                row_sums.install(connection)
                if self._migrated:
                    row_sums.guard(connection)
            except BaseException:
                connection.close()
                raise
            for thread in [t for t in self._connections if not t.is_alive()]:
                self._connections.pop(thread).close()
            self._connections[threading.current_thread()] = connection
            self._local.connection = connection
            return connection

    def _roll_back(self, connection: Connection) -> None:
        """Leave no transaction open, or every later one of this thread would be refused."""
        if not connection.in_transaction:
            return  # some errors (disk full) have rolled back already
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            with self._lock:
                self._connections.pop(threading.current_thread(), None)
            self._local.connection = None
            connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
                raise row_sums.damaged(str(error)) from error
            raise
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise self._damaged(error) from error
        except sqlite3.Error as error:
            if str(error) == NOT_SOUND:
                raise row_sums.damaged("a row does not match its checksum") from error
            # of an extended code, the low byte is the kind
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise DiskFullError(DISK_FULL) from error
            if code in DAMAGED or NOT_TEXT in str(error):
                raise self._damaged(error) from error
            if code in FAILED:
                raise DiskFailedError(DISK_FAILED.format(error)) from error
            raise

    def _damaged(self, error: Exception) -> CorruptionError:
        return CorruptionError(
            f"the catalogue {self.path.name} is damaged ({error}); restore a snapshot"
        )
