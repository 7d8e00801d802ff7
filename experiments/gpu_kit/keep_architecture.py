"""Zero, in place, what libraries hold for other GPUs: zeros compress to nothing.

    python keep_architecture.py 90 LIBRARY…

A fatbin is a header (magic, version, its size, the size of all) and entries, each a header (kind,
its size, the size of the code, at byte 28 the architecture) and code. PTX, which is for all GPUs,
goes too.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
HEADER = "<IHHQ"  # magic, version, size of this, size of the entries
ENTRY = "<HHIQ"  # kind, -, size of this, size of the code
PTX = 1


def main() -> None:
    architecture = int(sys.argv[1])
    for library in map(Path, sys.argv[2:]):
        data = bytearray(library.read_bytes())
        zeroed = keep(data, architecture)
        library.write_bytes(data)
        sys.stdout.write(f"{library.name}: {zeroed >> 20} MiB zeroed\n")


def keep(data: bytearray, architecture: int) -> int:
    """Returns the bytes zeroed."""
    zeroed, start = 0, data.find(MAGIC)
    while start >= 0:
        _, version, size, total = struct.unpack_from(HEADER, data, start)
        end = start + size + total
        if version != 1 or size != struct.calcsize(HEADER) or end > len(data):
            start = data.find(MAGIC, start + len(MAGIC))  # the number stood there by chance
            continue
        entry = start + size
        while entry < end:
            kind, _, header, code = struct.unpack_from(ENTRY, data, entry)
            if kind == 0:
                break
            (of,) = struct.unpack_from("<I", data, entry + 28)
            if of != architecture or kind == PTX:
                data[entry + header : entry + header + code] = bytes(code)
                zeroed += code
            entry += header + code
        start = data.find(MAGIC, end)
    return zeroed


if __name__ == "__main__":
    main()
