"""Putting a flipped bit back: of all values one bit away, the one that matches the checksum.

With 64 bits of checksum and some thousand candidates a false match is one in 10**15.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from memory_store.catalogue.row_sums import body_sum, row_sum

INT_BITS = (8, 16, 24, 32, 48, 64)  # widths in which SQLite stores an integer
MAX_BODY_BYTES = 16_384
"""Candidates times the time of a checksum grow with the square: longer texts are given up."""


def mend_row(values: Sequence[Any], stored: int) -> list[Any] | None:
    """The row that was written, or None if it is more than one bit away.

    Args:
        values: text that is not UTF-8 any more is decoded with ``surrogateescape``.
        stored: its checksum, which may itself be what was hit.
    """
    if (row_sum(*values) ^ stored).bit_count() == 1:
        return list(values)
    for at, value in enumerate(values):
        for candidate in _neighbours(value):
            row = [*values[:at], candidate, *values[at + 1 :]]
            if row_sum(*row) == stored:
                return row
    return None


def mend_body(body: bytes, stored: int) -> bytes | None:
    """As :func:`mend_row`, of a compressed text."""
    if len(body) > MAX_BODY_BYTES:
        return None
    return next((one for one in _bytes_near(body) if body_sum(one) == stored), None)


def _neighbours(value: Any) -> Iterator[Any]:
    if isinstance(value, str):
        for data in _bytes_near(value.encode("utf-8", "surrogateescape")):
            yield data.decode("utf-8", "surrogateescape")
    elif isinstance(value, int):
        yield from _ints_near(value)
    elif isinstance(value, float):
        for data in _bytes_near(struct.pack(">d", value)):
            yield struct.unpack(">d", data)[0]
        if value.is_integer() and abs(value) < 2**47:  # SQLite stores it as an integer
            yield from (float(near) for near in _ints_near(int(value)))


def _ints_near(value: int) -> Iterator[int]:
    for bits in INT_BITS:
        if -(1 << bits - 1) <= value < 1 << bits - 1:
            for data in _bytes_near(value.to_bytes(bits // 8, "big", signed=True)):
                yield int.from_bytes(data, "big", signed=True)


def _bytes_near(data: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
