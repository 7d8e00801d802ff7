"""The indexes that this process has loaded, by collection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from memory_store.catalogue import collections
from memory_store.catalogue.collections import CollectionRow
from memory_store.index.lexical_index import LexicalIndex
from memory_store.index.live_index import LiveIndex
from memory_store.index.vector_index import Found
from memory_store.records import FloatArray
from memory_store.storage import Storage

Index = TypeVar("Index")


class Indexes:
    """Made when first asked for, forgotten with their collection. Thread-safe."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._vectors: dict[int, LiveIndex] = {}
        self._words: dict[int, LexicalIndex] = {}

    def by_key(
        self, row: CollectionRow, vector: FloatArray, top_k: int, allowed: Sequence[int] | None
    ) -> Found:
        """Search the collection's keys as they are now.

        Raises:
            ValueError: ``vector`` is not (d,), or not finite.
        """
        dim = row.collection.spec.z_dim
        if vector.shape != (dim,) or not np.isfinite(vector).all():
            raise ValueError(
                f"the query vector has shape {vector.shape} or is not finite; collection "
                f"{row.collection.name!r} has keys of shape ({dim},)"
            )
        index = self.vectors(row)
        index.sync(row.change_seq)
        return index.search(vector, top_k, allowed)

    def by_words(
        self, row: CollectionRow, query: str, top_k: int, allowed: Sequence[int] | None
    ) -> Found:
        """Search its kept texts as they are now."""
        index = self._of(self._words, row, LexicalIndex)
        index.sync(row.change_seq)
        return index.search(query, top_k, allowed)

    def vectors(self, row: CollectionRow) -> LiveIndex:
        """The index of its keys, as it was last brought up to date."""
        return self._of(self._vectors, row, LiveIndex)

    def rebuild(self, name: str | None) -> int:
        """Make that of a collection anew, or all, and save it. Returns the vectors indexed."""
        vectors = 0
        for row in self.live():
            if name is None or row.collection.name == name:
                index = self.vectors(row)
                vectors += index.rebuild()
                index.save()
        return vectors

    def close(self) -> None:
        """Wait for what they do in the background."""
        for index in self.loaded().values():
            index.close()

    def live(self) -> list[CollectionRow]:
        """Collections that may have one."""
        with self._storage.catalogue.read() as connection:
            return collections.live(connection)

    def loaded(self) -> dict[int, LiveIndex]:
        """Those of keys, by collection id."""
        return dict(self._vectors)

    def _of(
        self,
        held: dict[int, Index],
        row: CollectionRow,
        make: Callable[[Storage, CollectionRow], Index],
    ) -> Index:
        index = held.get(row.collection_id)
        if index is None:
            live = {other.collection_id for other in self.live()}
            with self._lock:
                for number in held.keys() - live:
                    del held[number]
                index = held.setdefault(row.collection_id, make(self._storage, row))
        return index
