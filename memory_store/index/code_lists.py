"""Short codes of many vectors, in two lists that two threads scan at once.

Product-quantised codes of one bit a dimension (Jégou et al. 2011, IEEE TPAMI 33:117), which FAISS
scans with byte shuffles. It never divides the scan of one query, so the rows are dealt out: row r
is in list r mod 2. There are no inverted lists: keys do not fall into clusters, so that half of
the lists cost 3 points of recall (LOG.md).

Symbols: n = vectors, d = their dimension.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import faiss
import numpy as np
import numpy.typing as npt

from memory_store.index.vector_index import WORD_BYTES, Rows, c_floats
from memory_store.records import FloatArray

T = TypeVar("T")
LISTS = 2


def _alone() -> None:
    """FAISS may not start threads of its own from this one: others are serving."""
    faiss.omp_set_num_threads(1)


_scanners = ThreadPoolExecutor(
    os.cpu_count() or 1, thread_name_prefix="code-scanner", initializer=_alone
)


class CodeLists:
    """Rows are numbered in the order in which they are added."""

    def __init__(self, sample: FloatArray) -> None:
        """Train on ``sample`` (n, d), in one thread. Holds nothing at first."""
        _alone()
        dim = sample.shape[1]
        codes = faiss.IndexPQFastScan(dim, dim // math.gcd(dim, 4), 4, faiss.METRIC_INNER_PRODUCT)
        codes.pq.cp.min_points_per_centroid = 1  # else FAISS warns on stderr
        codes.train(c_floats(sample))
        self._lists: list[Any] = [codes, *(faiss.clone_index(codes) for _ in range(1, LISTS))]

    def __len__(self) -> int:
        return sum(int(codes.ntotal) for codes in self._lists)

    def add(self, vectors: FloatArray) -> None:
        """Append rows (n, d)."""
        _alone()
        start = len(self)
        for number, codes in enumerate(self._lists):
            own = vectors[(number - start) % LISTS :: LISTS]
            if len(own):
                codes.add(c_floats(own))

    def nearest(self, vector: FloatArray, count: int, then: Callable[[Rows], T]) -> list[T]:
        """What ``then`` makes of the rows that come nearest to ``vector`` (d,) by their codes.

        Args:
            count: of rows, in all lists together.
            then: called for each list with its share of them, in the thread that scanned it.
        """
        query = c_floats(vector[None])
        share = -(-count // LISTS)

        def scan(number: int) -> T:
            _, (rows,) = self._lists[number].search(query, share)
            return then(rows[rows >= 0] * LISTS + number)

        others = [_scanners.submit(scan, number) for number in range(1, LISTS)]
        _alone()
        return [scan(0), *(other.result() for other in others)]

    def dump(self) -> list[npt.NDArray[Any]]:
        """Arrays that :meth:`load` takes back, joined."""
        saved = [faiss.serialize_index(codes) for codes in self._lists]
        return [np.array([len(each) for each in saved], np.int64), *saved]

    @classmethod
    def load(cls, data: memoryview, start: int) -> CodeLists:
        """Args: data: what :meth:`dump` gave is in it from ``start`` on, its integrity verified:
        FAISS trusts it."""
        loaded = cls.__new__(cls)
        sizes: Sequence[int] = np.frombuffer(data, np.int64, LISTS, start).tolist()
        start += LISTS * WORD_BYTES
        loaded._lists = []
        for size in sizes:
            loaded._lists.append(
                faiss.deserialize_index(np.frombuffer(data, np.uint8, size, start))
            )
            start += size
        return loaded
