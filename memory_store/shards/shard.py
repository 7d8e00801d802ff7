"""One sealed shard: a safetensors file of encoded codes and keys that is never changed again.

Symbols: n = rows, m = slots. Tensors: ``codes`` (n, m, …), ``scales`` (n, m) for integers and
``keys`` (n, …), as :mod:`memory_store.shards.codec` lays them out. The header's metadata carries
the format version, the collection's spec and one xxh3 per tensor, so that a shard can be audited
without a catalogue; the catalogue carries one checksum per row, so that serving one row needs no
more than that row.

Rows are read with ``pread``, not mmap: a file cut short under a mapping kills the process with
SIGBUS, a short ``pread`` is an error we can answer with.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors.numpy import save

from memory_store.errors import CorruptionError, IncompatibleFormatError
from memory_store.files import told_as_disk_errors, write_durably
from memory_store.records import CodeFormat, MemorySpec
from memory_store.shards.codec import HEADER_DTYPES, Tensor, layout

FORMAT = "paramem-shard"
FORMAT_VERSION = 1
MAX_HEADER_BYTES = 1 << 16
LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class SealedShard:
    """What the catalogue records of a shard."""

    name: str  # path below the shards' directory
    num_rows: int
    num_bytes: int
    row_bytes: int  # all tensors together
    checksums: Sequence[str]  # one a row


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """Where a tensor lies in the file."""

    offset: int
    row_bytes: int
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]


def seal(root: Path, name: str, spec: MemorySpec, tensors: Mapping[str, Tensor]) -> SealedShard:
    """Write a shard durably to ``root / name``.

    Args:
        tensors: exactly those of :func:`memory_store.shards.codec.layout`, already encoded.

    Raises:
        DiskFullError: nothing is left behind.
    """
    rows = len(tensors["codes"])
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "fingerprint": spec.fingerprint,
        "rows": str(rows),
        "slots": str(spec.slots),
        "z_dim": str(spec.z_dim),
        "code_format": str(spec.code_format),
        **{f"xxh3.{name}": xxhash.xxh3_64_hexdigest(_raw(a)) for name, a in arrays.items()},
    }
    data = save(arrays, metadata)
    write_durably(root / name, data, step="d")
    checksums = [row_checksum({n: _raw(a[row]) for n, a in arrays.items()}) for row in range(rows)]
    row_bytes = sum(array[0].nbytes for array in arrays.values())
    return SealedShard(name, rows, len(data), row_bytes, checksums)


def row_checksum(row: Mapping[str, bytes]) -> str:
    """``<xxh3 of the code>-<xxh3 of the key>``: each half can be verified alone."""
    return f"{code_checksum(row)}-{xxhash.xxh3_64_hexdigest(row['keys'])}"


def code_checksum(row: Mapping[str, bytes]) -> str:
    digest = xxhash.xxh3_64(row["codes"])
    digest.update(row.get("scales", b""))
    return digest.hexdigest()


class ShardReader:
    """An open shard. Thread-safe; the descriptor is closed with the last reference.

    Opening validates the header against the file's size before anything is allocated.

    Raises:
        FileNotFoundError: compacted away, or lost.
        CorruptionError: not a whole shard.
        IncompatibleFormatError: written by a newer paramem.
        DiskFailedError: the device failed; here and wherever bytes are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with told_as_disk_errors():
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor)
            self._size = os.fstat(self._descriptor).st_size
        header, data_start = self._read_header()
        self._metadata = header.pop("__metadata__", None)
        self.spec, self.num_rows = self._read_spec()
        self._slots = self._place(header, data_start)

    @property
    def num_bytes(self) -> int:
        return self._size

    def row(self, row: int, *, names: Sequence[str] | None = None) -> dict[str, bytes]:
        """Raw bytes of one row, by tensor (all of them if ``names`` is not given).

        Raises:
            CorruptionError: no such row, or the file was cut short.
        """
        if not 0 <= row < self.num_rows:
            raise self._corrupt(f"has {self.num_rows} rows, row {row} was asked for")
        found = {}
        for name in names or tuple(self._slots):
            slot = self._slots[name]
            found[name] = self._read(slot.row_bytes, slot.offset + row * slot.row_bytes)
        return found

    def code(self, row: int, checksum: str) -> dict[str, Tensor]:
        """The encoded code of one row: ``codes`` (m, …) and, for integers, ``scales`` (m,).

        Raises:
            CorruptionError: the bytes are not those the catalogue recorded.
        """
        names = tuple(name for name in self._slots if name != "keys")
        raw = self.row(row, names=names)
        if code_checksum(raw) != checksum.partition("-")[0]:
            raise self._corrupt(f"row {row} does not match its checksum")
        return {name: self.view(name, data) for name, data in raw.items()}

    def keys(self) -> Tensor:
        """All keys, encoded and unverified: compare each row with :func:`key_matches`. (n, …)"""
        return self.tensor("keys")

    def tensor(self, name: str) -> Tensor:
        """One whole tensor, unverified. Returns (n, …)."""
        slot = self._slots[name]
        data = self._read(slot.row_bytes * self.num_rows, slot.offset)
        return np.frombuffer(data, slot.dtype).reshape(self.num_rows, *slot.row_shape)

    def damaged_tensors(self) -> list[str]:
        """Tensors that do not match the checksum in the header."""
        return [
            name
            for name in self._slots
            if xxhash.xxh3_64_hexdigest(_raw(self.tensor(name)))
            != self._metadata.get(f"xxh3.{name}")
        ]

    def view(self, name: str, data: bytes) -> Tensor:
        """Raw bytes of one row as an array of the tensor's row shape."""
        slot = self._slots[name]
        return np.frombuffer(data, slot.dtype).reshape(slot.row_shape)

    def _read_header(self) -> tuple[dict[str, Any], int]:
        length = int.from_bytes(self._read(LENGTH_BYTES, 0), "little")
        if length > MAX_HEADER_BYTES:
            raise self._corrupt(f"claims a header of {length} bytes")
        try:
            header = json.loads(self._read(length, LENGTH_BYTES))
        except ValueError:
            raise self._corrupt("has an unreadable header") from None
        if not isinstance(header, dict):
            raise self._corrupt("has an unreadable header")
        return header, LENGTH_BYTES + length

    def _read_spec(self) -> tuple[MemorySpec, int]:
        metadata = self._metadata
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
            raise self._corrupt("is not a shard of memories")
        try:
            version = int(metadata["format_version"])
            if version > FORMAT_VERSION:
                raise IncompatibleFormatError(
                    f"shard {self.path.name} has format {version}, this paramem reads up to "
                    f"{FORMAT_VERSION}: upgrade paramem"
                )
            spec = MemorySpec(
                metadata["fingerprint"],
                int(metadata["slots"]),
                int(metadata["z_dim"]),
                CodeFormat(metadata["code_format"]),
            )
            rows = int(metadata["rows"])
        except (KeyError, TypeError, ValueError):
            raise self._corrupt("has an incomplete header") from None
        if spec.slots < 0 or min(spec.z_dim, rows) < 1:
            raise self._corrupt("has an impossible shape")
        return spec, rows

    def _place(self, header: dict[str, Any], data_start: int) -> dict[str, TensorSlot]:
        """Check every tensor's dtype, shape and extent against the spec and the file's size."""
        spec = self.spec
        expected = layout(
            spec.code_format,
            self.num_rows,
            spec.slots,
            spec.z_dim,
            slot_bytes=_last_of_shape(header.get("codes")),
        )
        if header.keys() != expected.keys():
            raise self._corrupt(f"holds tensors {sorted(header)}, not {sorted(expected)}")
        slots, extents = {}, []
        for name, (dtype, shape) in expected.items():
            entry = header[name]
            row_bytes = HEADER_DTYPES[dtype].itemsize * math.prod(shape[1:])
            start = _start_of(entry)
            end = start + row_bytes * self.num_rows
            if entry != {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}:
                raise self._corrupt(f"tensor {name} is not {dtype} {shape}")
            slots[name] = TensorSlot(data_start + start, row_bytes, HEADER_DTYPES[dtype], shape[1:])
            extents.append((start, end))
        extents.sort()
        starts = [start for start, _ in extents] + [self._size - data_start]
        if starts != [0, *(end for _, end in extents)]:
            raise self._corrupt("is cut short or its tensors do not fill it")
        return slots

    def _read(self, length: int, offset: int) -> bytes:
        with told_as_disk_errors():
            data = os.pread(self._descriptor, length, offset)
        if len(data) != length:
            raise self._corrupt("is cut short")
        return data

    def _corrupt(self, what: str) -> CorruptionError:
        return CorruptionError(f"shard {self.path.name} {what}; run paramem doctor")


def key_matches(key: Tensor, checksum: str) -> bool:
    """Whether an encoded key (row of :meth:`ShardReader.keys`) is the one of the catalogue."""
    return xxhash.xxh3_64_hexdigest(_raw(key)) == checksum.partition("-")[2]


def _start_of(entry: Any) -> int:
    try:
        return max(0, int(entry["data_offsets"][0]))
    except (KeyError, IndexError, TypeError, ValueError):
        return 0


def _last_of_shape(entry: Any) -> int:
    try:
        return max(1, int(entry["shape"][-1]))
    except (KeyError, IndexError, TypeError, ValueError):
        return 1


def _raw(array: Tensor) -> bytes:
    return array.tobytes()
