"""Reading memories' codes: no SQL unless a shard is not where a memory says it is.

Symbols: m = slots, d = code dimension.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from memory_store.catalogue.memories import relocated
from memory_store.errors import CorruptionError, NotFoundError
from memory_store.records import FloatArray, Memory
from memory_store.shards.codec import Tensor, decode
from memory_store.slot_quantiser import SlotQuantiser
from memory_store.storage import Storage


@dataclass(frozen=True, slots=True)
class StoredCode:
    """One memory's code as its shard holds it."""

    tensors: dict[str, Tensor]
    quantiser: SlotQuantiser | None

    @property
    def layout(self) -> Hashable:
        """Codes of one layout can be decoded together."""
        codes = self.tensors["codes"]
        return codes.shape, codes.dtype, "scales" in self.tensors, id(self.quantiser)


def load_codes(storage: Storage, memories: Sequence[Memory]) -> list[FloatArray]:
    """K of (m, d). See :meth:`memory_store.store.MemoryStore.load_codes`.

    Those of one layout are decoded together: fifty rq memories one by one take twice as long.
    """
    stored = [_find(storage, memory) for memory in memories]
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for number, code in enumerate(stored):
        alike[code.layout].append(number)
    decoded: dict[int, FloatArray] = {}
    for numbers in alike.values():
        first = stored[numbers[0]]
        together = {
            name: np.stack([stored[number].tensors[name] for number in numbers])
            for name in first.tensors
        }
        decoded |= zip(numbers, decode(together, first.quantiser), strict=True)
    return [decoded[number] for number in range(len(stored))]


def _find(storage: Storage, memory: Memory) -> StoredCode:
    try:
        return _read(storage, memory)
    except (FileNotFoundError, CorruptionError):
        with storage.catalogue.read() as connection:
            now = relocated(connection, memory)
    if now is None:
        raise NotFoundError(
            f"a memory of document {memory.document_id!r} was deleted meanwhile; ask again"
        )
    try:
        return _read(storage, now)
    except FileNotFoundError:
        storage.counters.checksum_failures += 1
        raise CorruptionError(
            f"shard {now.shard} of document {now.document_id!r} is missing; run paramem doctor"
        ) from None
    except CorruptionError:
        storage.counters.checksum_failures += 1
        raise


def _read(storage: Storage, memory: Memory) -> StoredCode:
    reader = storage.shards.reader(memory.shard)
    return StoredCode(reader.code(memory.row, memory.checksum), storage.quantisers.of(reader.spec))
