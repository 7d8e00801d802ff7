"""The index of a large collection: short codes find candidates, the vectors themselves rank them.

Symbols: n = vectors, d = their dimension. A vector is kept twice: as a code (``code_lists``), and
as float16, which loses nothing of a bfloat16 key of unit norm. Only the choice of candidates is
approximate: scores are exact, a filtered search looks at every allowed vector, and a removed one is
never a candidate.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from memory_store.index.code_lists import CodeLists
from memory_store.index.row_ranker import row_ranker
from memory_store.index.vector_index import (
    WORD_BYTES,
    Found,
    IdArray,
    Rows,
    as_float16,
    check,
    id_array,
    pieces_of,
    ranked,
    saved_rows,
)
from memory_store.records import FloatArray

CANDIDATES = 2000
"""Of a million keys 0.997 of the true ten are among so many, 0.986 among half of them."""
CANDIDATES_PER_HIT = 8
SAMPLE = 32_768
"""Vectors that training looks at."""
REMOVED = -1


class CompressedIndex:
    """Trained on a sample; holds nothing at first."""

    layout = "product-quantised, two lists"

    def __init__(self, sample: FloatArray, *, expected: int) -> None:
        """Train (single-threaded: other threads are serving).

        Args:
            sample: (n, d) of the vectors to come, ``SAMPLE`` of them or all.
            expected: how many will come. Beyond twice as many, make another index.
        """
        self.dim = sample.shape[1]
        self._codes = CodeLists(sample)
        self._reserve(expected, expected * 2)

    def _reserve(self, expected: int, rows: int) -> None:
        self._expected = expected
        self._rows = 0  # used, those of removed vectors included
        self._count = 0
        self._ids: IdArray = np.empty(rows, np.int64)  # (rows,) or REMOVED
        self._vectors = np.empty((rows, self.dim), np.float16)  # untouched pages cost nothing
        self._order: tuple[IdArray, Rows] | None = None
        self._ranker = row_ranker(self.dim)

    def __len__(self) -> int:
        return self._count

    @property
    def outgrown(self) -> bool:
        """Whether so much was added that training on it would pay."""
        return self._rows > 2 * self._expected

    def ids(self) -> IdArray:
        return self._sorted()[0]

    def add(self, ids: Sequence[int], vectors: FloatArray) -> None:
        held = self._rows_of(id_array(ids))
        check(ids, vectors, self.dim, set(self._ids[held].tolist()))
        if len(ids) == 0:
            return
        end = self._rows + len(ids)
        if end > len(self._ids):
            more = end + end // 2
            self._ids = np.concatenate([self._ids[: self._rows], np.empty(more, np.int64)])
            grown = np.empty((len(self._ids), self.dim), np.float16)
            grown[: self._rows] = self._vectors[: self._rows]
            self._vectors = grown
        rows = np.arange(self._rows, end)
        self._codes.add(vectors)  # row by row, like the vectors
        self._ids[rows] = ids
        # a key of unit norm is never clipped
        self._vectors[rows] = as_float16(vectors)
        self._rows, self._count, self._order = end, self._count + len(ids), None

    def remove(self, ids: Sequence[int]) -> None:
        rows = self._rows_of(id_array(ids))
        if len(rows):
            self._ids[rows] = REMOVED
            self._count -= len(rows)
            self._order = None

    def take(self, ids: IdArray) -> tuple[IdArray, FloatArray]:
        rows = self._rows_of(ids)
        return self._ids[rows], self._vectors[rows].astype(np.float32)

    def search(
        self, vector: FloatArray, top_k: int, *, allowed: Sequence[int] | None = None
    ) -> Found:
        if allowed is not None:
            return self._best(self._rows_of(id_array(allowed)), vector, top_k)
        wanted = max(CANDIDATES, CANDIDATES_PER_HIT * top_k)
        if wanted < self._count:

            def best(rows: Rows) -> Found:
                return self._best(rows[self._ids[rows] != REMOVED], vector, top_k)

            # removed ones are still among the codes
            found = self._codes.nearest(vector, wanted * self._rows // self._count, best)
            hits = ranked(itertools.chain.from_iterable(found))[:top_k]
            if len(hits) >= top_k:
                return hits
        return self._best(self._sorted()[1], vector, top_k)

    def dump(self) -> list[memoryview]:
        """Everything of this index, in pieces; :meth:`load` undoes it.

        The pieces stay as they are whatever happens to the index afterwards: rows are never
        written twice.
        """
        used = slice(0, self._rows)
        sizes = np.array([self._rows, self._expected, self.dim], np.int64)
        ids = self._ids[used].copy()
        return pieces_of(sizes, ids, self._vectors[used], *self._codes.dump())

    @classmethod
    def load(cls, data: memoryview) -> CompressedIndex:
        """Args: data: of :meth:`dump`, joined, its integrity verified: FAISS trusts it."""
        index = cls.__new__(cls)
        rows, expected, index.dim = np.frombuffer(data, np.int64, 3).tolist()
        index._reserve(expected, max(rows, 2 * expected))
        ids, vectors, end = saved_rows(data, 3 * WORD_BYTES, rows, index.dim)
        index._ids[:rows], index._vectors[:rows] = ids, vectors
        index._codes = CodeLists.load(data, end)
        index._rows, index._count = rows, int(np.count_nonzero(index._ids[:rows] != REMOVED))
        return index

    def _best(self, rows: Rows, vector: FloatArray, top_k: int) -> Found:
        """The best of these rows, by their exact scores."""
        return self._ranker.best(rows, self._vectors, self._ids, vector, top_k)

    def _sorted(self) -> tuple[IdArray, Rows]:
        """Ids in ascending order and their rows. Threads that race here find the same."""
        order = self._order
        if order is None:
            rows = np.flatnonzero(self._ids[: self._rows] != REMOVED)
            rows = rows[np.argsort(self._ids[rows], kind="stable")]
            order = self._order = self._ids[rows], rows
        return order

    def _rows_of(self, ids: IdArray) -> Rows:
        """Where those of ``ids`` are that are here, each once, by id."""
        held, rows = self._sorted()
        wanted = np.unique(ids)
        places = np.searchsorted(held, wanted)
        known = places < len(held)
        known[known] = held[places[known]] == wanted[known]
        found: Rows = rows[places[known]]
        return found
