"""Files that are either wholly there after a power cut or not there at all.

A rename is durable only after its directory is synced, and its content only after the file is:
temp file in the same directory, write, fsync, rename, fsync of the directory.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memory_store.crashpoints import reach
from memory_store.errors import DiskFailedError, DiskFullError

TEMP_SUFFIX = ".tmp"
FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL = "the disk under the store's home is full; free space or run compact"
DISK_FAILED = (
    "the disk under the store's home does not do what it is asked ({}); nothing acknowledged is "
    "lost: look after the disk and its mount, then try again"
)


def write_durably(path: Path, *pieces: bytes | memoryview, step: str) -> None:
    """Create or replace ``path`` atomically; it survives a power cut once this returns.

    Args:
        pieces: of the content, one after the other.
        step: letter of the write protocol, names the crash points.

    Raises:
        DiskFullError, DiskFailedError: ``path`` is as it was, or wholly the new content that may
            not survive a power cut; a temp file that could not be removed is swept later.
    """
    temp = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMP_SUFFIX}")
    *whole, last = pieces
    half = len(last) // 2
    try:
        with told_as_disk_errors():
            descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                for piece in (*whole, last[:half]):
                    _write_all(descriptor, piece)
                reach(f"{step}-torn")
                _write_all(descriptor, last[half:])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            reach(f"{step}-synced")
            temp.replace(path)
            reach(f"{step}-renamed")
            sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


def make_directory(path: Path) -> None:
    """Create ``path`` (0700) so that it survives a power cut; no-op when it exists.

    Raises:
        DiskFullError, DiskFailedError: it is not there, so that the next call tries again.
    """
    if path.is_dir():
        return
    with told_as_disk_errors():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            sync_directory(path.parent)
        except BaseException:
            with suppress(OSError):
                path.rmdir()
            raise


def remove(path: Path) -> None:
    """Delete a file; a missing one is fine.

    Raises:
        DiskFailedError
    """
    with told_as_disk_errors():
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the renames and unlinks in ``path`` durable.

    Raises:
        DiskFullError, DiskFailedError
    """
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make the content of a file that someone else wrote durable.

    Raises:
        DiskFullError, DiskFailedError
    """
    _sync(path, os.O_RDONLY)


def free_bytes(path: Path) -> int:
    """Bytes an unprivileged process may still write below ``path``.

    Raises:
        DiskFailedError
    """
    with told_as_disk_errors():
        status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


@contextmanager
def told_as_disk_errors() -> Iterator[None]:
    """Turn ENOSPC and EDQUOT into :class:`DiskFullError`, what else a device can answer into
    :class:`DiskFailedError`. That a file is not there is an answer, not a failure."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(DISK_FULL) from error
        raise DiskFailedError(DISK_FAILED.format(error.strerror)) from error


def _sync(path: Path, flags: int) -> None:
    with told_as_disk_errors():
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:  # a write may be short
        view = view[os.write(descriptor, view) :]
