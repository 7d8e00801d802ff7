"""A disk that fails at its n-th call: what ``os`` and SQLite answer below the store, made to order.

``FaultyDisk`` counts the calls of an operation; with ``fail_at`` the call of that number fails.
SQLite does its input and output in C: there every statement is a call, refused as SQLite refuses
it, with the transaction rolled back before (a full disk does that) or left open.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

FILE_CALLS = ("open", "write", "fsync", "pread", "replace", "unlink", "mkdir", "statvfs")


class FileFault(StrEnum):
    FULL = "ENOSPC"
    FAILED = "EIO"
    READ_ONLY = "EROFS"
    SHORT = "short"  # a write or read of one byte, once
    TORN = "torn"  # renamed, but half of the content never arrived; then the device fails


class CatalogueFault(StrEnum):
    FULL = "SQLITE_FULL"
    FAILED = "SQLITE_IOERR_FSYNC"
    READ_ONLY = "SQLITE_READONLY"
    BUSY = "SQLITE_BUSY"
    DAMAGED = "SQLITE_CORRUPT_INDEX"


@dataclass
class FaultyDisk:
    """Counts calls; fails the one numbered ``fail_at`` (from 0) with ``fault``."""

    fault: FileFault | CatalogueFault = FileFault.FAILED
    fail_at: int | None = None
    calls: list[str] = field(default_factory=list)

    def is_due(self, call: str) -> bool:
        self.calls.append(call)
        return self.fail_at == len(self.calls) - 1


@contextmanager
def faulty_files(disk: FaultyDisk) -> Iterator[FaultyDisk]:
    """Everything the store's own files ask of ``os`` goes through ``disk``."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FILE_CALLS:
            patch.setattr(os, name, _faulty(disk, name, getattr(os, name)))
        yield disk


def _faulty(disk: FaultyDisk, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not disk.is_due(name):
            return real(*args, **kwargs)
        if disk.fault is FileFault.SHORT:
            if name == "write":
                return real(args[0], bytes(args[1])[:1])
            if name == "pread":
                return real(args[0], 1, args[2])
            return real(*args, **kwargs)
        if disk.fault is FileFault.TORN:
            if name == "replace":
                os.truncate(args[0], Path(args[0]).stat().st_size // 2)
                real(*args, **kwargs)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        code = getattr(errno, disk.fault.value)
        raise OSError(code, os.strerror(code))

    return call


@contextmanager
def faulty_catalogue(disk: FaultyDisk, *, rolls_back: bool) -> Iterator[FaultyDisk]:
    """Every statement of connections opened meanwhile goes through ``disk``."""

    class Connection(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            self._fail_if_due(str(args[0]))
            return super().execute(*args)

        def executemany(self, *args: Any) -> sqlite3.Cursor:
            self._fail_if_due(str(args[0]))
            return super().executemany(*args)

        def _fail_if_due(self, statement: str) -> None:
            if not disk.is_due(statement):
                return
            if rolls_back and self.in_transaction:
                super().execute("ROLLBACK")
            error = sqlite3.OperationalError(f"{disk.fault.value} at {statement.split()[0]}")
            error.sqlite_errorcode = getattr(sqlite3, disk.fault.value)
            error.sqlite_errorname = disk.fault.value
            raise error

    real = sqlite3.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sqlite3, "connect", lambda *args, **kwargs: real(*args, factory=Connection, **kwargs)
        )
        yield disk
