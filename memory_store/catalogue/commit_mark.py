"""How far SQLite's write-ahead log was committed, told beside the log.

A flipped bit in the log's last transaction looks like a power cut's tear, and SQLite forgets the
transaction. Torn is what was never acknowledged, so each process notes after its commits where in
the log they end. The note is not synced, since it is only ever behind the log, and a disk that does
not take it is no reason to fail what is durable. One that is damaged, or of a log that began anew
since, says nothing.

The log is read, not the wal-index beside it: closing that would end SQLite's locks on it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import xxhash

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24  # of the log and of each of its frames
SIZE_AT, SALTS_AT = slice(8, 12), slice(16, 24)  # in the header
ENDS_AT, FRAME_SALTS_AT = slice(4, 8), slice(8, 16)  # in a frame's header
NOTE = struct.Struct(">8sI")


@dataclass(frozen=True, slots=True)
class Mark:
    """So many frames of the log with these salts belong to transactions that are durable."""

    salts: bytes = b""  # 8
    frames: int = 0


def read_mark(log: Path) -> Mark:
    """What is known of this log or an older one; nothing if there is no note."""
    try:
        note = mark_of(log).read_bytes()
    except OSError:
        return Mark()
    if len(note) != NOTE.size + 8 or xxhash.xxh3_64_digest(note[: NOTE.size]) != note[NOTE.size :]:
        return Mark()
    return Mark(*NOTE.unpack(note[: NOTE.size]))


class CommitMark:
    """Keeps the mark of one log. Not thread-safe: transactions of a process come one by one."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._durable = Mark()

    def begin(self) -> None:
        """The caller holds SQLite's write lock, so what the log has is durable."""
        with suppress(OSError), _opened(self._log, os.O_RDONLY) as file:
            self._durable = _last(file, self._durable)

    def commit(self) -> None:
        """The caller's transaction is durable: the first to end behind what there was."""
        with suppress(OSError):
            with _opened(self._log, os.O_RDONLY) as file:
                end = _next(file, self._durable)
            if end is not None:  # else nothing was changed
                self._durable = end
                note = NOTE.pack(end.salts, end.frames)
                with _opened(mark_of(self._log), os.O_WRONLY | os.O_CREAT) as file:
                    os.pwrite(file, note + xxhash.xxh3_64_digest(note), 0)


def mark_of(log: Path) -> Path:
    """Where the note about a log is."""
    return log.with_name(f"{log.name.removesuffix('-wal')}-mark")


def _next(file: int, known: Mark) -> Mark | None:
    """The end of the first transaction behind what is known."""
    header = _header(file)
    end = next(_ends(file, header, known), None)
    if end is None and header[SALTS_AT] != known.salts:  # it is the first of a new log
        return next(_ends(file, header, Mark(header[SALTS_AT])), None)
    return end


def _last(file: int, known: Mark) -> Mark:
    """The end of the last transaction."""
    header = _header(file)
    if header[SALTS_AT] != known.salts:
        known = Mark(header[SALTS_AT])
    for end in _ends(file, header, known):
        known = end
    return known


def _ends(file: int, header: bytes, start: Mark) -> Iterator[Mark]:
    """Of the transactions with the start's salts behind it."""
    frame_bytes = FRAME_HEADER_BYTES + int.from_bytes(header[SIZE_AT], "big")
    for frame in count(start.frames):
        head = os.pread(file, FRAME_HEADER_BYTES, HEADER_BYTES + frame * frame_bytes)
        if len(head) < FRAME_HEADER_BYTES or head[FRAME_SALTS_AT] != start.salts:
            return
        if any(head[ENDS_AT]):
            yield Mark(start.salts, frame + 1)


def _header(file: int) -> bytes:
    return os.pread(file, HEADER_BYTES, 0)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags, 0o600)
    try:
        yield file
    finally:
        os.close(file)
