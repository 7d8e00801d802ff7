"""The in-memory index of one collection, kept in step with the catalogue.

Every process that selects has its own. ``sync`` compares one integer when nothing changed; else it
takes what was added and removed since from the catalogue and the keys from the shards. A memory
whose key is damaged or whose shard is lost is left out (and counted): it is never served, and
``doctor`` names it.

A collection that outgrew its index gets a larger one, made in a thread while the old one serves,
and saved, because training is dearer than reading keys.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np

from memory_store.catalogue import collections, memories
from memory_store.catalogue.collections import CollectionRow
from memory_store.catalogue.memories import Pointer
from memory_store.errors import CorruptionError, IncompatibleFormatError
from memory_store.index import growth
from memory_store.index.compressed_index import CompressedIndex
from memory_store.index.flat_index import FlatIndex
from memory_store.index.index_file import digest_of, load_index_file, save_index_file
from memory_store.index.vector_index import Found
from memory_store.records import FloatArray
from memory_store.shards.codec import Tensor, decode_keys
from memory_store.shards.shard import key_matches
from memory_store.shared_lock import SharedLock
from memory_store.storage import Storage

log = logging.getLogger(__name__)

SYNC_ATTEMPTS = 3
KEYS_AT_ONCE = 16384
"""Keys decoded before they go into the index: 2.3 GB for a million would be too many."""
LAYOUTS: dict[str, type[FlatIndex] | type[CompressedIndex]] = {
    index.layout: index for index in (FlatIndex, CompressedIndex)
}


class LiveIndex:
    """Thread-safe: searches run side by side, a sync excludes them."""

    def __init__(self, storage: Storage, row: CollectionRow) -> None:
        self._catalogue = storage.catalogue
        self._shards = storage.shards
        self._counters = storage.counters
        self._collection = row.collection
        self._collection_id = row.collection_id
        self._path = storage.index_path(row.collection_id)
        self._lock = SharedLock()
        self._index: FlatIndex | CompressedIndex = FlatIndex(row.collection.spec.z_dim)
        self._seq = -1  # of the catalogue's change counter; -1: nothing loaded yet
        self._saved_seq = -1
        self._left_out: set[int] = set()
        self._saving = threading.Lock()
        self._growing = threading.Lock()
        self._grower: threading.Thread | None = None
        self._stopped = threading.Event()

    def __len__(self) -> int:
        return len(self._index)

    def search(self, vector: FloatArray, top_k: int, allowed: Sequence[int] | None) -> Found:
        with self._lock.shared():
            return self._index.search(vector, top_k, allowed=allowed)

    def is_true(self) -> bool:
        """Whether it holds exactly what was live at its change counter, but for damaged keys."""
        with self._lock.shared(), self._catalogue.read() as connection:
            live = memories.live_at(connection, self._collection_id, self._seq)
            held: list[int] = self._index.ids().tolist()
            return held == [number for number, _ in live if number not in self._left_out]

    def sync(self, change_seq: int) -> None:
        """Hold what was live at ``change_seq`` or later."""
        if self._seq >= change_seq:
            return
        with self._lock.exclusive():
            if self._seq >= change_seq:
                return
            if self._seq < 0:
                self._load()
            self._catch_up()
            if self._index.outgrown and self._grower is None and not self._stopped.is_set():
                self._grower = threading.Thread(target=self._grow_and_save, name="index-growth")
                self._grower.start()

    def wait_grown(self) -> None:
        """Until no larger index is in the making."""
        grower = self._grower
        if grower is not None:
            grower.join()

    def close(self) -> None:
        """Give up what is in the making. Idempotent."""
        self._stopped.set()
        self.wait_grown()

    def rebuild(self) -> int:
        """Forget everything and read every key again. Returns the number of vectors."""
        with self._lock.exclusive():
            self._clear()
            self._catch_up()
        if self._index.outgrown:
            self._grow()
        return len(self)

    def save(self) -> None:
        """Write the index file if it would say something new. A damaged collection is not saved."""
        with self._saving:
            with self._lock.shared():
                seq = self._seq
                if seq < 0 or seq == self._saved_seq or self._left_out:
                    return
                layout, dim, ids = self._index.layout, self._index.dim, self._index.ids()
                pieces = self._index.dump()
            with self._catalogue.read() as connection:
                live = memories.live_at(connection, self._collection_id, seq)
            if [memory_id for memory_id, _ in live] != ids.tolist():
                return  # compacted since: the next sync will tell
            save_index_file(
                self._path,
                pieces,
                layout=layout,
                fingerprint=self._collection.spec.fingerprint,
                dim=dim,
                seq=seq,
                live=live,
            )
            self._saved_seq = seq

    def _grow_and_save(self) -> None:
        try:
            if self._grow():
                self.save()
        except Exception:  # the old index serves on; memory or the disk ran out
            log.exception("index of collection %s not grown", self._collection.name)
        finally:
            self._grower = None

    def _grow(self) -> bool:
        """Returns: whether there is a larger index now."""
        with self._growing:
            old = self._index
            new = growth.compress(old, self._lock.shared, self._stopped)
            if new is None:
                return False
            with self._lock.exclusive():
                if self._index is not old:
                    return False  # rebuilt meanwhile
                growth.catch_up(new, old)
                self._index = new
                self._saved_seq = -1
            return True

    def _clear(self) -> None:
        self._index = FlatIndex(self._index.dim)
        self._seq = 0
        self._saved_seq = -1
        self._left_out.clear()

    def _load(self) -> None:
        """Take the saved index if it is of a state the catalogue can still tell; else rebuild."""
        self._clear()
        try:
            header, payload = load_index_file(self._path)
        except FileNotFoundError:
            return
        except (CorruptionError, IncompatibleFormatError):
            self._counters.index_rebuilds += 1
            return
        with self._catalogue.read() as connection:
            row = collections.find(connection, self._collection.name)
            live = memories.live_at(connection, self._collection_id, header.seq)
        spec = self._collection.spec
        if (
            row.collection_id == self._collection_id
            and row.purged_seq <= header.seq <= row.change_seq
            and (header.fingerprint, header.dim) == (spec.fingerprint, spec.z_dim)
            and header.layout in LAYOUTS
            and (header.count, header.digest) == (len(live), digest_of(live))
        ):
            self._index = LAYOUTS[header.layout].load(payload)
            self._seq = self._saved_seq = header.seq
        else:
            self._counters.index_rebuilds += 1

    def _catch_up(self) -> None:
        for attempt in range(SYNC_ATTEMPTS):
            with self._catalogue.read() as connection:
                row = collections.find(connection, self._collection.name)
                if row.collection_id != self._collection_id:
                    return  # deleted and made again meanwhile; the new one has its own index
                since = self._seq if self._seq >= row.purged_seq else 0
                added = memories.added_since(connection, self._collection_id, since)
                gone = memories.removed_since(connection, self._collection_id, since)
            if since == 0 and self._seq > 0:
                # tombstones we had not seen were purged: compare with everything that is live
                live = {pointer.memory_id for pointer in added}
                held = set(self._index.ids().tolist())
                gone = sorted(held - live)
                added = [pointer for pointer in added if pointer.memory_id not in held]
                self._left_out.clear()
            self._shards.forget(self._collection_id)
            self._index.remove(gone)
            self._left_out.difference_update(gone)
            if attempt:  # the one before may have stopped half-way
                held = set(self._index.ids().tolist())
                added = [pointer for pointer in added if pointer.memory_id not in held]
            if self._add(added, may_retry=attempt + 1 < SYNC_ATTEMPTS):
                self._refuse_other_than(row.collection.memories)
                self._seq = row.change_seq
                return

    def _refuse_other_than(self, live: int) -> None:
        """Rows are summed, what leads to them is not: a damaged index hides or doubles some."""
        held = len(self._index) + len(self._left_out)
        if held != live:
            self._clear()
            self._seq = -1  # nothing of this is to be searched, or built upon
            raise CorruptionError(
                f"collection {self._collection.name!r} counts {live} memories, {held} were found; "
                "run paramem doctor --repair"
            )

    def _add(self, pointers: Sequence[Pointer], *, may_retry: bool) -> bool:
        """Read and add keys, shard by shard. False: a shard was compacted away, look again."""
        by_shard: dict[str, list[Pointer]] = {}
        left_out: set[int] = set()
        for pointer in pointers:
            if pointer.is_sound:
                by_shard.setdefault(pointer.shard, []).append(pointer)
            else:
                left_out.add(pointer.memory_id)
        ids: list[int] = []
        encoded: list[Tensor] = []
        for name, wanted in by_shard.items():
            try:
                keys = self._shards.reader(name).keys()
            except FileNotFoundError:
                if may_retry:
                    return False
                keys = np.empty((0, 0))
            except (CorruptionError, IncompatibleFormatError):
                keys = np.empty((0, 0))
            for pointer in wanted:
                if pointer.row < len(keys) and key_matches(keys[pointer.row], pointer.checksum):
                    ids.append(pointer.memory_id)
                    encoded.append(keys[pointer.row])
                else:
                    left_out.add(pointer.memory_id)
            if len(ids) >= KEYS_AT_ONCE:
                self._add_keys(ids, encoded)
                ids, encoded = [], []
        self._add_keys(ids, encoded)
        self._left_out |= left_out
        self._counters.checksum_failures += len(left_out)
        return True

    def _add_keys(self, ids: Sequence[int], encoded: Sequence[Tensor]) -> None:
        if ids:
            code_format = self._collection.spec.code_format
            self._index.add(ids, decode_keys(np.stack(encoded), code_format))
