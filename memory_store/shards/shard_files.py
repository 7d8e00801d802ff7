"""The directory of shards, and the few of them this process keeps open."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uuid_utils

from memory_store.errors import CorruptionError
from memory_store.file_lock import FileLock
from memory_store.files import make_directory, remove, sync_directory
from memory_store.records import MemorySpec
from memory_store.shards.codec import Tensor
from memory_store.shards.shard import SealedShard, ShardReader, seal

SUFFIX = ".safetensors"
MAX_OPEN = 128


class ShardFiles:
    """Shards below ``root``, one directory per collection number. Thread-safe."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_directory(root)
        self._pins = root / ".pins"
        self._lock = threading.Lock()
        self._open: OrderedDict[str, ShardReader] = OrderedDict()
        self.opens = self.cache_hits = 0  # of readers, for metrics

    def seal(
        self, collection_id: int, spec: MemorySpec, tensors: Mapping[str, Tensor]
    ) -> SealedShard:
        """Write a new shard durably, under a name no other process can pick.

        Raises:
            DiskFullError: nothing is left behind.
        """
        make_directory(self.root / str(collection_id))
        return seal(self.root, f"{collection_id}/{uuid_utils.uuid7().hex}{SUFFIX}", spec, tensors)

    def confirm(self, shard: SealedShard) -> None:
        """Inside the transaction that starts to use a shard: nobody took it for an orphan.

        Raises:
            CorruptionError: this process slept longer than an unused shard is kept.
        """
        if not self.path(shard.name).exists():
            raise CorruptionError(f"shard {shard.name} is gone before its commit; write it again")

    def path(self, name: str) -> Path:
        return self.root / name

    def reader(self, name: str) -> ShardReader:
        """An open shard, from the cache or the disk.

        Raises:
            FileNotFoundError, CorruptionError, IncompatibleFormatError
        """
        with self._lock:
            reader = self._open.get(name)
            if reader is not None:
                self._open.move_to_end(name)
                self.cache_hits += 1
                return reader
        reader = ShardReader(self.path(name))
        with self._lock:
            self._open[name] = reader
            self.opens += 1
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return reader

    def forget(self, collection_id: int) -> None:
        """Close this collection's shards: an open descriptor keeps a deleted file's bytes."""
        prefix = f"{collection_id}/"
        with self._lock:
            for name in [name for name in self._open if name.startswith(prefix)]:
                del self._open[name]

    def unlink(self, names: list[str]) -> None:
        """Delete shards durably; a missing one is fine.

        While a snapshot has them pinned they stay, as orphans that a later sweep collects.
        Raises: DiskFailedError.
        """
        with self._lock:
            for name in names:
                self._open.pop(name, None)
        with FileLock(self._pins) as lock:
            if not lock.try_exclusive():
                return
            for name in names:
                remove(self.path(name))
        for directory in {self.path(name).parent for name in names}:
            if directory.is_dir():
                sync_directory(directory)

    def remove_collection(self, collection_id: int) -> None:
        """Delete all shards of a collection, as :meth:`unlink` does."""
        self.forget(collection_id)
        with FileLock(self._pins) as lock:
            if lock.try_exclusive():
                shutil.rmtree(self.root / str(collection_id), ignore_errors=True)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """No process deletes a shard of this home until the block ends."""
        with FileLock(self._pins) as lock:
            lock.share()
            yield

    def names(self) -> list[str]:
        """Every shard file on disk, whether the catalogue knows it or not."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(f"*/*{SUFFIX}"))

    def close(self) -> None:
        with self._lock:
            self._open.clear()
