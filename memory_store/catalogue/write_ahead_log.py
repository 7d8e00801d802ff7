"""Whether SQLite's write-ahead log is whole.

SQLite takes the log for ended at the first frame whose checksum is wrong, as a power cut leaves it,
and forgets what comes behind: a flipped bit loses every later commit without a word. With
``synchronous=FULL`` each commit was synced before the next began, so a power cut can tear the last
transaction only, and only before it was acknowledged. Two commits at or behind a wrong frame are
damage, and so is one that :mod:`memory_store.catalogue.commit_mark` knows of.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory_store.catalogue.commit_mark import (
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    Mark,
    mark_of,
    read_mark,
)
from memory_store.errors import CorruptionError
from memory_store.files import told_as_disk_errors

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
    is_marked: bool  # as committed farther than that

    @property
    def is_damage(self) -> bool:
        return self.is_marked or self.commits > TORN_COMMITS


def check_log(path: Path) -> None:
    """Refuse a log that is damaged; a missing, empty or torn one is fine.

    Another process may be writing it: a break that is damage stands at the same frame every time.
    The mark is read before the log, which is then farther.

    Raises:
        CorruptionError, DiskFailedError
    """
    found: Break | None = None
    for _ in range(LOOKS):
        mark = read_mark(path)
        with told_as_disk_errors():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                return
        now = find_break(data, mark)
        if now is None or not now.is_damage:
            return
        if found is not None and now.frame == found.frame:
            raise CorruptionError(
                f"the catalogue's log {path.name} is damaged at frame {now.frame}; "
                f"{max(1, now.commits)} transactions would be lost with it: restore a snapshot, or "
                f"delete {(path if now.commits > TORN_COMMITS else mark_of(path)).name} to go on "
                "without them"
            )
        found = now


def find_break(data: bytes, mark: Mark) -> Break | None:
    """None: every frame is whole, or there is none. The mark may be another log's."""
    if len(data) < HEADER_BYTES + FRAME_HEADER_BYTES:
        return None
    magic, _version, page_size, _number, *salts = struct.unpack(">6I", data[:24])
    byte_order = ">u4" if magic == MAGIC_BIG else "<u4"
    sums = _checksum(data[:24], (0, 0), byte_order)
    if magic not in (MAGIC_LITTLE, MAGIC_BIG) or sums != struct.unpack(">2I", data[24:32]):
        # the salts cannot be trusted: those of the first frame are as good
        size = _page_size(data)
        is_marked = mark.frames > 0 and mark.salts == data[40:48]
        return None if size is None else Break(0, _commits(data, 0, size, data[40:48]), is_marked)
    frame_bytes = FRAME_HEADER_BYTES + page_size
    salt = struct.pack(">2I", *salts)
    marked = mark.frames if mark.salts == salt else 0
    frames = (len(data) - HEADER_BYTES) // frame_bytes
    for frame in range(frames):
        start = HEADER_BYTES + frame * frame_bytes
        page = start + FRAME_HEADER_BYTES
        covered = data[start : start + 8] + data[page : page + page_size]
        sums = _checksum(covered, sums, byte_order)
        written = struct.unpack(">2I", data[start + 16 : start + 24])
        if data[start + 8 : start + 16] != salt or written != sums:
            return Break(frame, _commits(data, frame, page_size, salt), frame < marked)
    return Break(frames, 0, True) if frames < marked else None


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
    """SQLite's, of pairs of 32-bit words (a, b): s += a + t, then t += b + s.

    That is linear modulo 2**32, so that a page is one sum over its words, each with its weight.
    """
    words = np.frombuffer(data, byte_order).astype(np.uint32).reshape(-1, 2)  # (n, 2)
    from_s, from_t = (int(total) for total in (words.T[:, None] * _weights(len(words))).sum((0, 2)))
    s, t = sums
    for_s, for_t = _power(len(words))
    return (
        (for_s[0] * s + for_s[1] * t + from_s) & MASK,
        (for_t[0] * s + for_t[1] * t + from_t) & MASK,
    )


@cache
def _weights(pairs: int) -> npt.NDArray[np.uint32]:
    """What word a (0) or b (1) of each pair adds to s (0) and t (1). Returns (2, 2, pairs)."""
    powers = [_power(after) for after in reversed(range(pairs))]
    of_a = [[row[0] + row[1] for row in power] for power in powers]  # a goes into both s and t
    of_b = [[row[1] for row in power] for power in powers]
    return np.array([of_a, of_b], np.uint64).astype(np.uint32).transpose(0, 2, 1)


@cache
def _power(exponent: int) -> tuple[Sums, Sums]:
    """[[1, 1], [1, 2]], one step, to this power modulo 2**32."""
    power = ((1, 0), (0, 1))
    for _ in range(exponent):
        (a, b), (c, d) = power
        power = (((a + c) & MASK, (b + d) & MASK), ((a + 2 * c) & MASK, (b + 2 * d) & MASK))
    return power
