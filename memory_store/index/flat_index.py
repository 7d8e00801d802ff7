"""The index of a small collection: ``IDMap2,Flat``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

from memory_store.index.vector_index import (
    WORD_BYTES,
    Found,
    IdArray,
    as_float16,
    c_floats,
    check,
    id_array,
    pieces_of,
    ranked,
    saved_rows,
)
from memory_store.records import FloatArray

FLAT_LIMIT = 30_000
"""Vectors above which looking at all of them takes longer than 5 ms."""


class FlatIndex:
    """Exact: every search looks at every vector, about 0.2 us each at d = 576.

    Of float16 numbers, which lose nothing of a bfloat16 key of unit norm: saved as such, a loaded
    index finds what it found before.
    """

    layout = "flat-float16"

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
        self._ids: set[int] = set()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def outgrown(self) -> bool:
        """Whether a :class:`CompressedIndex` would be worth its training."""
        return len(self) > FLAT_LIMIT

    def ids(self) -> IdArray:
        return id_array(sorted(self._ids))

    def add(self, ids: Sequence[int], vectors: FloatArray) -> None:
        check(ids, vectors, self.dim, self._ids)
        if ids:
            kept = as_float16(vectors).astype(np.float32, order="C")
            self._index.add_with_ids(kept, id_array(ids))
            self._ids.update(ids)

    def remove(self, ids: Sequence[int]) -> None:
        known = self._ids.intersection(ids)
        if known:
            self._index.remove_ids(id_array(sorted(known)))
            self._ids -= known

    def take(self, ids: IdArray) -> tuple[IdArray, FloatArray]:
        held = id_array([number for number in ids.tolist() if number in self._ids])
        return held, self._index.reconstruct_batch(held)

    def search(
        self, vector: FloatArray, top_k: int, *, allowed: Sequence[int] | None = None
    ) -> Found:
        top_k = min(top_k, len(self._ids) if allowed is None else len(allowed))
        if top_k < 1:
            return []
        parameters: Any = None
        if allowed is not None:
            selector: Any = faiss.IDSelectorBatch(id_array(allowed))
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        # queries come one by one from many threads: a team of threads for each would cost more
        # than the scan (on two busy cores 8 ms instead of 15 us); the setting is per thread
        faiss.omp_set_num_threads(1)
        scores, ids = self._index.search(c_floats(vector[None]), top_k, params=parameters)
        found = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        # FAISS pads with -1 when it finds fewer
        return ranked((number, score) for number, score in found if number >= 0)

    def dump(self) -> list[memoryview]:
        """Everything of this index, in pieces; :meth:`load` undoes it."""
        sizes = np.array([len(self), self.dim], np.int64)
        ids = faiss.vector_to_array(self._index.id_map)
        vectors = self._index.index.reconstruct_n(0, len(self))  # (n, d) float32
        return pieces_of(sizes, ids, as_float16(vectors))

    @classmethod
    def load(cls, data: memoryview) -> FlatIndex:
        """Args: data: of :meth:`dump`, joined, its integrity verified."""
        count, dim = np.frombuffer(data, np.int64, 2).tolist()
        ids, vectors, _ = saved_rows(data, 2 * WORD_BYTES, count, dim)
        index = cls(dim)
        index.add(ids.tolist(), vectors.astype(np.float32))
        return index
