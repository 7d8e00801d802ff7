"""Whether SQLite's write-ahead log is whole.

SQLite takes the log for ended at the first frame whose checksum is wrong, as a power cut leaves it,
and forgets what comes behind: a flipped bit loses every later commit without a word. With
``synchronous=FULL`` each commit was synced before the next began, so a power cut can tear the last
transaction only. Two commits at or behind a wrong frame are damage. The last transaction alone
cannot be told from a torn one.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memory_store.errors import CorruptionError
from memory_store.files import told_as_disk_errors

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
MAGIC_LITTLE, MAGIC_BIG = 0x377F0682, 0x377F0683
PAGE_SIZES = tuple(1 << exponent for exponent in range(9, 17))
MASK = 0xFFFFFFFF
TORN_COMMITS = 1
LOOKS = 3
Sums = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Break:
    """Where the chain of checksums ends, and what was committed from there on."""

    frame: int
    commits: int


def check_log(path: Path) -> None:
    """Refuse a log that is damaged; a missing, empty or torn one is fine.

    Another process may be writing it: a break that is damage stands at the same frame every time.

    Raises:
        CorruptionError, DiskFailedError
    """
    found: Break | None = None
    for _ in range(LOOKS):
        with told_as_disk_errors():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return
        now = find_break(data)
        if now is None or now.commits <= TORN_COMMITS:
            return
        if found is not None and now.frame == found.frame:
            raise CorruptionError(
                f"the catalogue's log {path.name} is damaged at frame {now.frame}; {now.commits} "
                "transactions would be lost with it: restore a snapshot, or delete the log to go "
                "on without them"
            )
        found = now


def find_break(data: bytes) -> Break | None:
    """None: every frame is whole, or there is none."""
    if len(data) < HEADER_BYTES + FRAME_HEADER_BYTES:
        return None
    magic, _version, page_size, _number, *salts = struct.unpack(">6I", data[:24])
    byte_order = ">u4" if magic == MAGIC_BIG else "<u4"
    sums = _checksum(data[:24], (0, 0), byte_order)
    if magic not in (MAGIC_LITTLE, MAGIC_BIG) or sums != struct.unpack(">2I", data[24:32]):
        # the salts cannot be trusted: those of the first frame are as good
        size = _page_size(data)
        return None if size is None else Break(0, _commits(data, 0, size, data[40:48]))
    frame_bytes = FRAME_HEADER_BYTES + page_size
    salt = struct.pack(">2I", *salts)
    for frame in range((len(data) - HEADER_BYTES) // frame_bytes):
        start = HEADER_BYTES + frame * frame_bytes
        page = start + FRAME_HEADER_BYTES
        sums = _checksum(data[start : start + 8], sums, byte_order)
        sums = _checksum(data[page : page + page_size], sums, byte_order)
        written = struct.unpack(">2I", data[start + 16 : start + 24])
        if data[start + 8 : start + 16] != salt or written != sums:
            return Break(frame, _commits(data, frame, page_size, salt))
    return None


def _commits(data: bytes, first_frame: int, page_size: int, salt: bytes) -> int:
    """Frames from ``first_frame`` on that end a transaction of this log."""
    frame_bytes = FRAME_HEADER_BYTES + page_size
    starts = range(
        HEADER_BYTES + first_frame * frame_bytes, len(data) - frame_bytes + 1, frame_bytes
    )
    return sum(
        data[start + 8 : start + 16] == salt and data[start + 4 : start + 8] != bytes(4)
        for start in starts
    )


def _page_size(data: bytes) -> int | None:
    """The one of which the log is a whole number of frames with equal salts."""
    for size in PAGE_SIZES:
        second = HEADER_BYTES + FRAME_HEADER_BYTES + size
        if data[40:48] == data[second + 8 : second + 16]:
            return size
    return None


def _checksum(data: bytes, sums: Sums, byte_order: str) -> Sums:
    """Args: data: a whole number of pairs of 32-bit words."""
    first, second = sums
    words = iter(np.frombuffer(data, byte_order).tolist())
    for word in words:
        first = (first + word + second) & MASK
        second = (second + next(words) + first) & MASK
    return first, second
