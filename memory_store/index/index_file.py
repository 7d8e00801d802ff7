"""A saved index: one checksummed file, replaced atomically.

Layout: magic, length of the header (8 bytes), header (JSON), payload. The header says which state
of the catalogue the index is of: the change counter, and a digest over the ids and checksums of
the memories that were live then. Whatever does not agree is an index to rebuild.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from memory_store.errors import CorruptionError, IncompatibleFormatError
from memory_store.files import write_durably

MAGIC = b"PARAMEMI"
FORMAT_VERSION = 1
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """What a saved index is of."""

    fingerprint: str
    dim: int
    count: int
    seq: int
    digest: str  # see digest_of
    payload_checksum: str
    layout: str = "flat"  # of the payload: which index dumped it
    format_version: int = FORMAT_VERSION


def digest_of(live: Sequence[tuple[int, str]]) -> str:
    """Digest of (memory_id, checksum) pairs in ascending order of id."""
    digest = xxhash.xxh3_128()
    for memory_id, checksum in live:
        digest.update(f"{memory_id}:{checksum}\n".encode())
    return digest.hexdigest()


def save_index_file(
    path: Path,
    payload: Sequence[memoryview],
    *,
    layout: str,
    fingerprint: str,
    dim: int,
    seq: int,
    live: Sequence[tuple[int, str]],
) -> None:
    """Write it durably.

    Args:
        payload: in pieces.
        live: (memory_id, checksum) of everything in the index, ascending.
    """
    checksum = xxhash.xxh3_128()
    for piece in payload:
        checksum.update(piece)
    header = IndexHeader(
        fingerprint=fingerprint,
        dim=dim,
        count=len(live),
        seq=seq,
        digest=digest_of(live),
        payload_checksum=checksum.hexdigest(),
        layout=layout,
    )
    encoded = json.dumps(asdict(header)).encode()
    length = len(encoded).to_bytes(LENGTH_BYTES, "little")
    write_durably(path, MAGIC + length + encoded, *payload, step="f")


def load_index_file(path: Path) -> tuple[IndexHeader, memoryview]:
    """Read it back.

    Raises:
        FileNotFoundError; CorruptionError: any bit is not as written, or cannot be read.
        IncompatibleFormatError: another paramem wrote it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptionError(f"{path.name} cannot be read ({error.strerror})") from error
    if data[: len(MAGIC)] != MAGIC:
        raise CorruptionError(f"{path.name} is not an index")
    start = len(MAGIC) + LENGTH_BYTES
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    if length > MAX_HEADER_BYTES:
        raise CorruptionError(f"{path.name} claims a header of {length} bytes")
    try:
        fields = json.loads(data[start : start + length])
        if fields["format_version"] != FORMAT_VERSION:
            raise IncompatibleFormatError(f"{path.name} was written by another paramem")
        header = IndexHeader(**fields)
    except (ValueError, TypeError, KeyError):
        raise CorruptionError(f"{path.name} has an unreadable header") from None
    payload = data[start + length :]
    if xxhash.xxh3_128_hexdigest(payload) != header.payload_checksum:
        raise CorruptionError(f"{path.name} does not match its checksum")
    return header, memoryview(payload)
