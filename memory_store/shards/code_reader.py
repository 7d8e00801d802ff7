"""Reading one memory's code: no SQL unless its shard is not where the memory says it is."""

from __future__ import annotations

from memory_store.catalogue import memories
from memory_store.errors import CorruptionError, NotFoundError
from memory_store.records import FloatArray, Memory
from memory_store.shards.codec import decode
from memory_store.storage import Storage


def load_code(storage: Storage, memory: Memory) -> FloatArray:
    """Returns (m, d). See :meth:`memory_store.store.MemoryStore.load_codes`."""
    try:
        return _read(storage, memory)
    except (FileNotFoundError, CorruptionError):
        with storage.catalogue.read() as connection:
            now = memories.relocated(connection, memory)
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


def _read(storage: Storage, memory: Memory) -> FloatArray:
    reader = storage.shards.reader(memory.shard)
    return decode(reader.code(memory.row, memory.checksum), storage.quantisers.of(reader.spec))
